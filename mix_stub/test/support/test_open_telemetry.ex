defmodule DSPex.TestOpenTelemetry do
  @moduledoc """
  Stands for the library `opentelemetry_api` with its SDK, on which this project does not depend: modules of its names with the functions
  that are used. They return what those of version 1.5 do; ended spans are sent to the test.

  They are loaded for the tests that need them alone, so that other tests run as without the library.
  """

  @source ~S"""
  defmodule :otel_ctx do
    @key :"$__current_otel_ctx"

    def new, do: %{}
    def get_current, do: Process.get(@key) || %{}

    def attach(context) do
      metadata = context |> :otel_tracer.current_span_ctx() |> :otel_span.hex_span_ctx()
      :logger.update_process_metadata(metadata)
      Process.put(@key, context)
    end

    def detach(context), do: attach(context)
  end

  defmodule :opentelemetry do
    def get_tracer(name), do: {:otel_tracer_default, {:tracer, name}}
    def event(at, name, attributes), do: %{system_time_native: at, name: name, attributes: attributes}
  end

  defmodule :otel_tracer do
    @key {:otel_tracer, :span_ctx}

    def current_span_ctx, do: current_span_ctx(:otel_ctx.get_current())
    def current_span_ctx(nil), do: :undefined
    def current_span_ctx(context), do: Map.get(context, @key, :undefined)
    def set_current_span(context, span_ctx), do: Map.put(context, @key, span_ctx)

    def from_remote_span(trace_id, span_id, flags),
      do: {:span_ctx, trace_id, hex(trace_id, 32), span_id, hex(span_id, 16), flags, [], true, true, false, :undefined}

    def start_span(context, {:otel_tracer_default, tracer}, name, %{} = options) when is_binary(name) do
      parent = current_span_ctx(context)
      config = :persistent_term.get(:test_open_telemetry)

      cond do
        config.sdk == :none and parent == :undefined ->
          {:span_ctx, 0, "00000000000000000000000000000000", 0, "0000000000000000", 0, [], false, false, false, :undefined}

        config.sdk == :none ->
          parent

        true ->
          begin(parent, tracer, name, options, config)
      end
    end

    defp begin(parent, tracer, name, options, config) do
      <<new_trace::128, span_id::64>> = :rand.bytes(24)
      trace_id = if parent == :undefined, do: new_trace, else: elem(parent, 1)
      sampled? = if parent == :undefined, do: config.sdk == :on, else: elem(parent, 5) == 1
      flags = if sampled?, do: 1, else: 0

      if sampled? do
        span = %{
          id: hex(span_id, 16),
          trace_id: hex(trace_id, 32),
          parent: if(parent != :undefined, do: elem(parent, 4)),
          remote?: parent != :undefined and elem(parent, 8),
          tracer: tracer,
          name: name,
          kind: Map.get(options, :kind, :internal),
          attributes: options.attributes,
          events: [],
          status: :unset,
          started: options.start_time
        }

        :ets.insert(:test_open_telemetry, {span_id, span})
      end

      {:span_ctx, trace_id, hex(trace_id, 32), span_id, hex(span_id, 16), flags, [], true, false, sampled?,
       {:otel_span_ets, :sdk}}
    end

    defp hex(number, digits), do: number |> Integer.to_string(16) |> String.downcase() |> String.pad_leading(digits, "0")
  end

  defmodule :otel_span do
    def is_recording(span_ctx), do: elem(span_ctx, 9)

    def hex_span_ctx(span_ctx) when is_tuple(span_ctx) do
      flags = if elem(span_ctx, 5) == 1, do: "01", else: "00"
      %{otel_trace_id: elem(span_ctx, 2), otel_span_id: elem(span_ctx, 4), otel_trace_flags: flags}
    end

    def hex_span_ctx(_none), do: %{}

    def set_attribute(span_ctx, key, value), do: update(span_ctx, &%{&1 | attributes: Map.put(&1.attributes, key, value)})
    def set_status(span_ctx, status), do: update(span_ctx, &%{&1 | status: status})
    def add_events(span_ctx, events), do: update(span_ctx, &%{&1 | events: &1.events ++ events})
    def end_span(span_ctx), do: end_span(span_ctx, :erlang.monotonic_time())

    def end_span(span_ctx, at) do
      update(span_ctx, &Map.put(&1, :ended, at))

      for {_id, span} <- :ets.take(:test_open_telemetry, elem(span_ctx, 3)),
          do: send(:persistent_term.get(:test_open_telemetry).test, {:otel_span, span})

      span_ctx
    end

    defp update(span_ctx, change) do
      case :ets.lookup(:test_open_telemetry, elem(span_ctx, 3)) do
        [{id, span}] -> :ets.insert(:test_open_telemetry, {id, change.(span)})
        [] -> false
      end
    end
  end
  """
  @modules [:otel_ctx, :opentelemetry, :otel_tracer, :otel_span]

  @doc """
  Loads the modules until the end of the test. `sdk` is `:on`, `:dropping` if the sampler drops every trace, or `:none`: the
  application has the API alone.
  """
  def load!(sdk \\ :on) do
    :ets.new(:test_open_telemetry, [:public, :named_table])
    :persistent_term.put(:test_open_telemetry, %{sdk: sdk, test: self()})
    Code.compile_string(@source)

    ExUnit.Callbacks.on_exit(fn ->
      for module <- @modules do
        :code.purge(module)
        :code.delete(module)
      end
    end)
  end

  @doc """
  Runs `work` within a span of the application; returns its result and the context of the span.
  """
  def within(name, work) do
    before = apply(:otel_ctx, :get_current, [])
    tracer = apply(:opentelemetry, :get_tracer, [:my_app])
    options = %{attributes: %{}, start_time: System.monotonic_time()}
    span_ctx = apply(:otel_tracer, :start_span, [before, tracer, name, options])
    apply(:otel_ctx, :attach, [apply(:otel_tracer, :set_current_span, [before, span_ctx])])
    result = work.()
    apply(:otel_ctx, :attach, [before])
    apply(:otel_span, :end_span, [span_ctx])
    {result, apply(:otel_span, :hex_span_ctx, [span_ctx])}
  end

  @doc """
  Returns the spans that have ended, by their names; waits until that of this name is there.
  """
  def spans(name, found \\ []) do
    receive do
      {:otel_span, %{name: ^name} = span} -> Enum.reverse([span | found])
      {:otel_span, span} -> spans(name, [span | found])
    after
      20_000 -> raise "no span #{name} among #{inspect(Enum.map(found, & &1.name))}"
    end
  end
end
