defmodule DSPex.Telemetry do
  @moduledoc """
  The events that are emitted when the application has `:telemetry` and a handler of them. Names,
  measurements and metadata are a contract: what a table names is always there, unless a note says
  when; changes are in the changelog.

  Without a handler nothing is emitted, Python records nothing, and a call costs no more than
  without `:telemetry`. `attach_default_logger/1` logs what is worth a line.

  ## Calls

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:dspex, :call, :start]` | `system_time`, `monotonic_time` | those of a call |
  | `[:dspex, :call, :stop]` | `duration`, `monotonic_time`, `queue_time`, `python_time`, and the usage; `failed_items` | those of a call, `result`, `stage`, `worker`, `model`, `provider`, `usage_known?` |
  | `[:dspex, :call, :exception]` | `duration`, `monotonic_time` | those of a call, `kind`, `reason`, `stacktrace`: the call was misused, and raised |

  Each call has one start and one end. A stream is one call for each time that it is read. The
  calling process, the reader of a stream, emits both. A call whose process ends first, and a stream
  that is halted, end with the `result` `:cancelled`; the event of a process that has ended comes
  from another one within some 20 ms.

  `result` is `:ok`, or the kind of the error (`DSPex.Python.Error`). `stage` is where the time of a
  timeout went. `queue_time` lasts from the start until Python had the call, `python_time` from then
  until its answer was ready. They, `worker` and the usage come from Python; without its answer they
  are missing among the measurements, `worker`, `model` and `provider` are `nil`, and `usage_known?`
  is `false`. `failed_items` is how many items of a batch or an evaluation have failed, which
  may be `:ok` itself; other calls do not have it.

  ## Inside of calls

  What happens in Python is told when its answer comes, or the result of an item of a batch that is
  streamed, in the order of time. `system_time` and `monotonic_time` say when it happened.

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:dspex, :module, :start]` | `system_time`, `monotonic_time` | those of a span |
  | `[:dspex, :module, :stop]` | `duration`, `monotonic_time` | those of a span, `result` |
  | `[:dspex, :module, :exception]` | `duration`, `monotonic_time` | those of a span, `result`, `kind`, `reason`, `stacktrace` |
  | `[:dspex, :model, :start]` | `system_time`, `monotonic_time` | those of a span, `model`, `provider`, `fallback_for` |
  | `[:dspex, :model, :stop]` | `duration`, `monotonic_time`, `attempts`, and the usage; `queue_time`, `time_to_first_token` | those of a span, `model`, `provider`, `fallback_for`, `result`, `cache_hit`, `finish_reason` |
  | `[:dspex, :model, :exception]` | `duration`, `monotonic_time`, `attempts`; `queue_time`, `time_to_first_token` | those of a span, `model`, `provider`, `fallback_for`, `result`, `kind`, `reason`, `stacktrace` |
  | `[:dspex, :tool, :start]` | `system_time`, `monotonic_time` | those of a span |
  | `[:dspex, :tool, :stop]` | `duration`, `monotonic_time` | those of a span, `result` |
  | `[:dspex, :tool, :exception]` | `duration`, `monotonic_time` | those of a span, `result`, `kind`, `reason`, `stacktrace` |
  | `[:dspex, :sandbox, :start]` | `system_time`, `monotonic_time` | those of a span |
  | `[:dspex, :sandbox, :stop]` | `duration`, `monotonic_time` | those of a span, `result` |
  | `[:dspex, :sandbox, :exception]` | `duration`, `monotonic_time` | those of a span, `result`, `kind`, `reason`, `stacktrace` |
  | `[:dspex, :store, :start]` | `system_time`, `monotonic_time` | those of a span |
  | `[:dspex, :store, :stop]` | `duration`, `monotonic_time` | those of a span, `result` |
  | `[:dspex, :store, :exception]` | `duration`, `monotonic_time` | those of a span, `result`, `kind`, `reason`, `stacktrace` |
  | `[:dspex, :optimizer, :start]` | `system_time`, `monotonic_time` | those of a span |
  | `[:dspex, :optimizer, :stop]` | `duration`, `monotonic_time` | those of a span, `result` |
  | `[:dspex, :optimizer, :exception]` | `duration`, `monotonic_time` | those of a span, `result`, `kind`, `reason`, `stacktrace` |

  What fails, or is cancelled, ends with `:exception`: `result` is the kind of the error, `kind` is
  `:error`, `reason` its message, and `stacktrace` is empty. A tool that fails is told here too,
  although the call goes on.

  ## Streams and pools

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:dspex, :stream, :chunk]` | `bytes`, `since_start` | those of a call, `field`, `first?` |
  | `[:dspex, :pool, :worker_started]` | `system_time` | `pool`, `worker` |
  | `[:dspex, :pool, :worker_ready]` | `system_time`, `duration` | `pool`, `worker` |
  | `[:dspex, :pool, :worker_died]` | `system_time`, `calls` | `pool`, `worker`, `reason` |
  | `[:dspex, :pool, :worker_recycled]` | `system_time` | `pool`, `worker`, `kind`, `reason` |
  | `[:dspex, :pool, :overloaded]` | `system_time` | `pool`, `operation` |
  | `[:dspex, :pool, :queue]` | `length` | `pool` |

  `since_start` of the first chunk is the time to the first token, as the reader sees it. The
  duration of `worker_ready` is the time since the start of this Python. `calls` of `worker_died`
  were in flight. `queue` tells how many calls wait for a worker: every 20 ms while some do, and
  when none does any more.

  ## Metadata

    * Those of a call: `pool`, `operation`, `module`, `program`, `version`, `session`,
      `conversation`, `request_id`, `metadata` (the map that the caller gave as the option
      `:metadata`, unchanged), `trace_id`, `span_id`, `parent_id`, `telemetry_span_context`. What a
      call does not have is `nil`
    * Those of a span: the same without `module`, and `worker`, `name`, `stage` (the name of the
      stage of a program, or `nil`). `span_id` and `parent_id` are the span's own.
      `telemetry_span_context` is equal in the two events of a span
    * The usage: `model_requests` (of a call only), `input_tokens`, `output_tokens`,
      `cached_tokens`, `reasoning_tokens`, `total_tokens`, and `cost` in US dollars, which is
      missing if the price of an answer is unknown. Of a request, counts that the provider does not
      report are missing, `queue_time` where its model has no limits, and `time_to_first_token` if
      it was not streamed. The costs of all models' events of a call add up to that of the call. A
      stream that is halted has those of all that Python had answered, also what nobody has read;
      what it was still asking is not known

  Times and durations have native units, see `System.convert_time_unit/3`. No event has a prompt, an
  answer, or an API key; the `reason` of a failure may quote one, unless the pool has `redact:`. A
  call with `trace: true` has the texts too: see `DSPex.Trace`.
  """

  require Logger

  @kinds [:call, :module, :model, :tool, :sandbox, :store, :optimizer]
  @phases [:start, :stop, :exception]
  @pool [
    :worker_started,
    :worker_ready,
    :worker_died,
    :worker_recycled,
    :overloaded,
    :queue
  ]
  @events for(kind <- @kinds, phase <- @phases, do: [:dspex, kind, phase]) ++
            [[:dspex, :stream, :chunk]] ++ for(event <- @pool, do: [:dspex, :pool, event])

  @logged [
    [:dspex, :call, :stop],
    [:dspex, :call, :exception],
    [:dspex, :pool, :worker_ready],
    [:dspex, :pool, :worker_died],
    [:dspex, :pool, :worker_recycled],
    [:dspex, :pool, :overloaded]
  ]
  @levels [:emergency, :alert, :critical, :error, :warning, :notice, :info, :debug]
  @handler "dspex-default-logger"

  @doc """
  Returns the names of all events.

      iex> [:dspex, :model, :stop] in DSPex.Telemetry.events()
      true
  """
  @spec events() :: [[atom()]]
  def events, do: @events

  @doc """
  Logs calls, and what happens to the workers of pools: one line each, with what it took, used and cost.

  Options:

    * `:level` - of the lines about calls that succeed; `:info` by default. Errors are warnings
    * `:slow_ms` - only calls that took at least so many milliseconds, and those that failed; 0 by default

  Returns `{:error, :already_exists}` if it is attached, and `{:error, :no_telemetry}` without `:telemetry`. `detach_default_logger/0` ends it.
  """
  @spec attach_default_logger(keyword()) :: :ok | {:error, :already_exists | :no_telemetry}
  def attach_default_logger(options \\ []) do
    options = logger_options!(options)

    if Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :attach_many, 4),
      do:
        apply(:telemetry, :attach_many, [@handler, @logged, &__MODULE__.log/4, Map.new(options)]),
      else: {:error, :no_telemetry}
  end

  # The first event would detach a handler that fails, and nothing be logged any more.
  defp logger_options!(options) do
    if not Keyword.keyword?(options) do
      raise ArgumentError, "expected options as a keyword list, got #{inspect(options)}"
    end

    options = Keyword.validate!(options, level: :info, slow_ms: 0)

    if options[:level] not in @levels do
      raise ArgumentError,
            "expected :level to be one of #{Enum.map_join(@levels, ", ", &inspect/1)}, got #{inspect(options[:level])}"
    end

    if not (is_number(options[:slow_ms]) and options[:slow_ms] >= 0) do
      raise ArgumentError,
            "expected :slow_ms to be a number of ms, 0 or more, got #{inspect(options[:slow_ms])}"
    end

    options
  end

  @doc """
  Ends `attach_default_logger/1`.
  """
  @spec detach_default_logger() :: :ok | {:error, :not_found | :no_telemetry}
  def detach_default_logger do
    if Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :detach, 1),
      do: apply(:telemetry, :detach, [@handler]),
      else: {:error, :no_telemetry}
  end

  @doc false
  def log([:dspex, :call, :stop], measurements, metadata, options) do
    ms = System.convert_time_unit(measurements.duration, :native, :millisecond)
    level = if metadata.result == :ok, do: options.level, else: :warning

    if level == :warning or ms >= options.slow_ms do
      Logger.log(level, fn -> call_line(ms, measurements, metadata) end, request_id(metadata))
    end
  end

  def log([:dspex, :call, :exception], _measurements, metadata, _options) do
    Logger.warning(
      fn ->
        "#{called(metadata)} raised: #{Exception.format_banner(metadata.kind, metadata.reason)}"
      end,
      request_id(metadata)
    )
  end

  def log([:dspex, :pool, event], measurements, metadata, options),
    do: Logger.log(pool_level(event, options), fn -> pool_line(event, measurements, metadata) end)

  defp pool_level(event, _options) when event in [:worker_died, :overloaded], do: :warning
  defp pool_level(_event, options), do: options.level

  defp pool_line(:worker_ready, measurements, metadata) do
    ms = System.convert_time_unit(measurements.duration, :native, :millisecond)
    "pool #{inspect(metadata.pool)}: worker #{metadata.worker} is ready after #{ms} ms"
  end

  defp pool_line(:worker_died, measurements, metadata),
    do:
      "pool #{inspect(metadata.pool)}: worker #{metadata.worker} #{metadata.reason}, calls in flight: #{measurements.calls}"

  defp pool_line(:worker_recycled, _measurements, metadata),
    do:
      "pool #{inspect(metadata.pool)}: worker #{metadata.worker} is replaced: #{metadata.reason}"

  defp pool_line(:overloaded, _measurements, metadata),
    do:
      "pool #{inspect(metadata.pool)}: refused a call of #{metadata.operation}, it is overloaded"

  defp call_line(ms, measurements, metadata) do
    [
      "#{called(metadata)} #{ended(metadata.result, measurements[:failed_items])} in #{ms} ms",
      metadata.model && "model #{metadata.model}",
      measurements[:total_tokens] not in [nil, 0] && "#{measurements.total_tokens} tokens",
      is_number(measurements[:cost]) && measurements.cost > 0 &&
        "#{Float.round(measurements.cost * 1.0, 6)} USD",
      metadata.request_id && "request #{inspect(metadata.request_id)}"
    ]
    |> Enum.filter(& &1)
    |> Enum.join(", ")
  end

  defp ended(:ok, failed) when failed in [nil, 0], do: "ok"
  defp ended(:ok, 1), do: "ok with 1 failed item"
  defp ended(:ok, failed), do: "ok with #{failed} failed items"
  defp ended(:cancelled, _failed), do: "cancelled"
  defp ended(kind, _failed), do: "failed (#{kind})"

  defp called(metadata) do
    what = metadata.module || metadata.program
    "#{metadata.operation}#{if what, do: " #{what}"} in pool #{inspect(metadata.pool)}"
  end

  defp request_id(%{request_id: nil}), do: []
  defp request_id(%{request_id: request_id}), do: [request_id: request_id]

  @doc false
  # Tells whether an event has a handler. Without handlers a call pays for no more than this.
  @spec handled?([atom()]) :: boolean()
  def handled?(event) do
    case table() do
      nil -> false
      table -> handled?(table, event)
    end
  end

  @doc false
  # Returns those of some kinds of spans of which an event has a handler.
  @spec handled_kinds([atom()]) :: [atom()]
  def handled_kinds(kinds) do
    case table() do
      nil -> []
      table -> for kind <- kinds, handled_kind?(table, kind, @phases), do: kind
    end
  end

  # What `:telemetry.execute/3` asks first. `:telemetry.list_handlers/1` takes a prefix, and reads the handlers of all events.
  # Not Code.ensure_loaded?/1: without the module it searches the disk for a millisecond in each call. A module that is not
  # loaded has no handlers either.
  defp table do
    cond do
      not function_exported?(:telemetry, :execute, 3) -> nil
      function_exported?(:telemetry_handler_table, :list_for_event, 1) -> :telemetry_handler_table
      true -> :unknown
    end
  end

  defp handled?(:unknown, _event), do: true
  defp handled?(table, event), do: apply(table, :list_for_event, [event]) != []

  defp handled_kind?(table, kind, [phase | phases]),
    do: handled?(table, [:dspex, kind, phase]) or handled_kind?(table, kind, phases)

  defp handled_kind?(_table, _kind, []), do: false

  @doc false
  # Emits an event, if the application has `:telemetry`, which may not exist when this module is compiled.
  @spec emit([atom()], map(), map()) :: :ok
  def emit(event, measurements, metadata) do
    if function_exported?(:telemetry, :execute, 3),
      do: apply(:telemetry, :execute, [event, measurements, metadata])

    :ok
  end

  @doc false
  # Emits an event of a pool, with the system's time.
  @spec pool(atom(), map(), map()) :: :ok
  def pool(event, measurements \\ %{}, metadata) when event in @pool do
    emit(
      [:dspex, :pool, event],
      Map.put(measurements, :system_time, System.system_time()),
      metadata
    )
  end
end
