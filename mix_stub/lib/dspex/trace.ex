defmodule DSPex.Trace do
  @moduledoc """
  What happened in a call: a tree of spans, in one clock, from the BEAM to each request to a model.

  A call with the option `trace: true` has it in its result, also in that of an error: `prediction.trace`, `error.trace`;
  `DSPex.Python.trace/1` finds it in the result of any function.

  ## Fields

    * `:id` - 32 hexadecimal digits: the trace id of W3C Trace Context. It is that of the option `:traceparent`, if the call has one
    * `:spans` - the spans in the order in which they began
    * `:dropped` - how many spans were not kept: beyond 10,000 in a call

  ## Spans

  A span is a map with string keys, which JSON can hold:

  | key | |
  | --- | --- |
  | `"id"` | 16 hexadecimal digits, unique in the trace |
  | `"parent"` | the id of the span around it; `nil`, or an id that is not in the list, for the outermost |
  | `"kind"` | see below |
  | `"name"` | such as `"dspy.ChainOfThought"`, `"openai/gpt-4o-mini"`, the name of a tool |
  | `"start_us"` | when it began: microseconds of Unix time |
  | `"duration_us"` | how long it took |
  | `"status"` | `"ok"`, `"error"`, or `"cancelled"`: it had not ended when the call had its answer |
  | `"error"` | `nil`, or a map of `"kind"` (a kind of `DSPex.Python.Error`, as text) and `"message"` |
  | `"attributes"` | a map by the kind of the span; what is not known is left out |

  The system time is read once in the BEAM and once in Python for each call; all other times are differences of a monotonic clock.

  | kind | what | attributes |
  | --- | --- | --- |
  | `"call"` | the call as its caller sees it; its name is the operation, such as `"execute_module"` | `"pool"`, `"module"`, `"program"`, `"version"`, `"session"`, `"conversation"`, `"request_id"`, `"metadata"` |
  | `"queue"` | from the start of the call until Python had it: encoding, waiting for a worker | |
  | `"python"` | from the moment Python had the call until its answer was ready | `"worker"`, `"queue_us"`: how long it waited there before any work |
  | `"item"` | an element of a batch or an example of an evaluation | `"index"` |
  | `"module"` | a module of DSPy or of the application | `"stage"`: the name of the stage of a program |
  | `"model"` | a request to a language model, with its repetitions; a fallback model has a span of its own | see below |
  | `"tool"` | a call of a tool; an error of the tool is the observation of the model, and the status is `"error"` | `"arguments"`, `"result"` |
  | `"sandbox"` | an execution of code that a model wrote | `"code"`, `"output"` |
  | `"store"` | work in the database of the store: `"read"`, `"write"` or `"change"`, with its wait for a thread | |
  | `"reward"`, `"metric"` | the rating of a prediction by a reward of `dspy.BestOfN` and `dspy.Refine`, or by a metric; its name is that of the check, or `"function"` | `"score"` |
  | `"optimizer"` | an optimizer's run | |

  Every span below a named stage has its name as `"stage"`.

  Attributes of a model's request:

    * `"provider"`, `"model"` - as in the configuration; `"fallback_for"` - the model in whose place it was asked
    * `"input_tokens"`, `"output_tokens"`, `"total_tokens"`, `"cached_tokens"` (input that the provider had cached),
      `"reasoning_tokens"` - as the provider counted them. Costs of a span are its own alone: the sums over all spans are those of the call
    * `"cost"` - in US dollars; 0.0 for a cached answer, and left out if the price is unknown
    * `"cache_hit"` - whether the answer came from the cache
    * `"attempts"` - how often it was sent; `"retries"` - a list of `"kind"`, `"message"` and `"after_us"` for each attempt that
      failed before the last one
    * `"queue_us"` - how long it waited for the limits of its model
    * `"first_token_us"` - when the first text came, after the start of the span, if the answer was streamed
    * `"finish_reason"` - why the answer ended
    * `"messages"` - what was sent: a list of `"role"` and `"content"` (text; other parts as JSON). `"reply"` - what came back, a list of texts

  `"messages"`, `"reply"`, `"arguments"`, `"result"`, `"code"` and `"output"` are kept with `trace: true`, and not with `trace: :metadata`. API keys in
  them are replaced. A text ends after 20,000 characters, and says how many are missing; after 4 million characters in a
  call the texts of further spans are left out.

  A pool with `redact:` has the messages and the reply as that function returns them, and no other texts.

      iex> {:ok, prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "What is ETF?", trace: true)
      iex> Enum.map(prediction.trace.spans, & &1["kind"])
      ["call", "queue", "python", "module", "model"]
  """

  alias DSPex.Python.JSON
  alias DSPex.Suggestion
  alias DSPex.Trace.Page

  @texts ~w(id kind name status)
  @times ~w(start_us duration_us)

  @counts [:input_tokens, :output_tokens, :cached_tokens, :reasoning_tokens, :total_tokens]
          |> Enum.map(&{&1, Atom.to_string(&1)})

  @enforce_keys [:id]
  defstruct [:id, spans: [], dropped: 0]

  @typedoc "A span: a map with string keys, see above."
  @type span :: %{required(String.t()) => term()}
  @type t :: %__MODULE__{id: String.t(), spans: [span()], dropped: non_neg_integer()}
  @typedoc "What has a trace."
  @type traced :: t() | map() | {:ok | :error, term()}

  @doc """
  Returns the trace as a plain map with string keys, which any JSON library encodes.

      iex> DSPex.Trace.to_map(%DSPex.Trace{id: "0af7651916cd43dd8448eb211c80319c"})
      %{"id" => "0af7651916cd43dd8448eb211c80319c", "spans" => [], "dropped" => 0}
  """
  @spec to_map(t()) :: %{String.t() => term()}
  def to_map(%__MODULE__{} = trace),
    do: %{"id" => trace.id, "spans" => trace.spans, "dropped" => trace.dropped}

  @doc """
  Writes a trace as one HTML file, which any browser shows without a network: a timeline of all spans, and for each of them its
  time, tokens, cost, error, and what was asked and answered.

  `trace` may also be what has one, such as a prediction, an error or the result of a call, `{:ok, prediction}`, a map as from `to_map/1`, an element of a
  stream, or a list of these, which `join/1` makes one; those of a list that have none are left out. A new file can be read by its owner only: it has the texts that the call had. Raises `ArgumentError` for what is no trace.
  A file that cannot be written, such as one in a folder that does not exist, is a `File.Error`, whose message names it.

      DSPex.Trace.write_html(prediction, "trace.html")
  """
  @spec write_html(traced() | [traced()], Path.t()) :: :ok | {:error, %File.Error{}}
  def write_html(trace, path) do
    case trace |> read!() |> to_map() |> Page.new() do
      {:ok, page} -> write(path, page)
      {:error, reason} -> raise ArgumentError, reason
    end
  end

  @doc """
  Writes a trace as JSON, which `mix dspex.trace` shows as a page. Arguments and result as for `write_html/2`.
  """
  @spec write_json(traced() | [traced()], Path.t()) :: :ok | {:error, %File.Error{}}
  def write_json(trace, path) do
    case trace |> read!() |> to_map() |> JSON.encode() do
      {:ok, text} -> write(path, text)
      {:error, reason, at} -> raise ArgumentError, "the trace is no JSON: #{reason} at #{at}"
    end
  end

  defp read!(traced) do
    case traces(traced) do
      [] ->
        raise ArgumentError, "there is no trace; make the call with the option trace: true"

      traces ->
        traces |> Enum.each(&check!/1)
        join(traces)
    end
  end

  # All traces in what has some, or may have.
  defp traces(%__MODULE__{} = trace), do: [trace]
  defp traces(%{trace: %__MODULE__{} = trace}), do: [trace]
  # Of an evaluation without one of its own.
  defp traces(%{prediction: prediction, score: _score}), do: traces(prediction)
  defp traces(%{trace: nil}), do: []
  defp traces([_first | _rest] = several), do: Enum.flat_map(several, &traces/1)

  # The result of a call, as its function returns it, and the elements of streams.
  defp traces({:ok, []}), do: []

  defp traces({status, value}) when status in [:ok, :error, :prediction, :program],
    do: traces(value)

  defp traces({index, {status, _value} = result})
       when is_integer(index) and status in [:ok, :error],
       do: traces(result)

  # Text of a stream.
  defp traces({:chunk, _field, _text}), do: []
  defp traces({:status, %{}}), do: []

  defp traces(%{"spans" => spans} = trace) when is_list(spans),
    do: [%__MODULE__{id: trace["id"], spans: spans, dropped: trace["dropped"] || 0}]

  defp traces(other),
    do:
      raise(
        ArgumentError,
        "expected a DSPex.Trace or what has one, got #{inspect(other, limit: 5)}#{remedy(other)}"
      )

  defp remedy(other) do
    case Suggestion.list_hint(other) do
      "" -> "; DSPex.Python.trace/1 finds it in any result"
      hint -> hint
    end
  end

  # The page and its readers count on these.
  defp check!(%__MODULE__{id: id, spans: spans, dropped: dropped}) do
    if not (id == nil or is_binary(id)),
      do: raise(ArgumentError, "expected a text at id, got #{inspect(id, limit: 5)}")

    if not (is_integer(dropped) and dropped >= 0),
      do: raise(ArgumentError, "expected a number at dropped, got #{inspect(dropped, limit: 5)}")

    for {span, index} <- Enum.with_index(spans), place = fault(span) do
      raise ArgumentError,
            "expected a span at spans[#{index}]#{wrong(place, span)}; DSPex.Trace describes it"
    end
  end

  defp wrong([], _span), do: ""

  defp wrong(place, span),
    do: ", got #{Enum.join(place, ".")}: #{inspect(get_in(span, place), limit: 5)}"

  # Returns the path of the first wrong part of a span; `nil` if all are right.
  defp fault(%{} = span) do
    name = Enum.find(@texts, &(not is_binary(span[&1])))
    time = Enum.find(@times, &(not is_number(span[&1])))

    cond do
      name -> [name]
      time -> [time]
      not text_or_nil?(span["parent"]) -> ["parent"]
      not map_or_nil?(span["error"]) -> ["error"]
      not map_or_nil?(span["attributes"]) -> ["attributes"]
      true -> fault_of_attributes(span["attributes"] || %{})
    end
  end

  defp fault(_other), do: []

  defp fault_of_attributes(attributes) do
    found =
      Enum.find(["cost" | Keyword.values(@counts)], &(not number_or_nil?(attributes[&1]))) ||
        Enum.find(["messages", "retries"], &(not maps_or_nil?(attributes[&1])))

    found && ["attributes", found]
  end

  defp text_or_nil?(value), do: value == nil or is_binary(value)
  defp map_or_nil?(value), do: value == nil or is_map(value)
  defp number_or_nil?(value), do: value == nil or is_number(value)
  defp maps_or_nil?(value), do: value == nil or (is_list(value) and Enum.all?(value, &is_map/1))

  defp write(path, text) when is_binary(path) or is_list(path) do
    new? = not File.exists?(path)

    with :ok <- if(new?, do: File.write(path, ""), else: :ok),
         :ok <- if(new?, do: File.chmod(path, 0o600), else: :ok),
         :ok <- File.write(path, text) do
      :ok
    else
      # As File.write!/2 raises it: its message names the file and the reason.
      {:error, reason} ->
        {:error, %File.Error{reason: reason, action: "write to file", path: to_string(path)}}
    end
  end

  defp write(other, _text), do: raise(ArgumentError, "expected a path, got #{inspect(other)}")

  @doc """
  Joins traces into one, such as those of the items of a batch. A span that several of them have is there once.

  The id is that of the first. Returns `nil` for an empty list.

      iex> span = fn id, start_us -> %{"id" => id, "start_us" => start_us, "duration_us" => 9} end
      iex> one = %DSPex.Trace{id: "t", spans: [span.("a", 1), span.("b", 5)]}
      iex> other = %DSPex.Trace{id: "t", spans: [span.("a", 1), span.("c", 3)]}
      iex> Enum.map(DSPex.Trace.join([one, other]).spans, & &1["id"])
      ["a", "c", "b"]
  """
  @spec join([t()]) :: t() | nil
  def join([]), do: nil

  def join([%__MODULE__{id: id} | _more] = traces) do
    # The spans around an item are told with each item, with their durations until then.
    {ids, latest} =
      Enum.reduce(traces, {[], %{}}, fn trace, acc -> Enum.reduce(trace.spans, acc, &add/2) end)

    spans =
      ids |> Enum.reverse() |> Enum.map(&Map.fetch!(latest, &1)) |> Enum.sort_by(& &1["start_us"])

    # What a call has dropped is told by each of its items.
    dropped = traces |> Enum.map(& &1.dropped) |> Enum.max()
    %__MODULE__{id: id, spans: spans, dropped: dropped}
  end

  defp add(%{"id" => id} = span, {ids, latest}) do
    case latest do
      %{^id => %{"duration_us" => longest}}
      when longest >= :erlang.map_get("duration_us", span) ->
        {ids, latest}

      %{^id => _shorter} ->
        {ids, %{latest | id => span}}

      _new ->
        {[id | ids], Map.put(latest, id, span)}
    end
  end

  @doc """
  Adds up what the requests to models in a trace have used: `:input_tokens`, `:output_tokens`, `:cached_tokens`, `:reasoning_tokens`,
  `:total_tokens`, `:cost` (`nil` if the price of an answer is unknown) and `:model_requests`, how many there were.

      iex> span = %{"kind" => "model", "attributes" => %{"input_tokens" => 9, "total_tokens" => 12, "cost" => 0.5}}
      iex> usage = DSPex.Trace.usage(%DSPex.Trace{id: "t", spans: [span, span]})
      iex> {usage.input_tokens, usage.total_tokens, usage.cost, usage.model_requests}
      {18, 24, 1.0, 2}
  """
  @spec usage(t()) :: %{atom() => number() | nil}
  def usage(%__MODULE__{spans: spans}) do
    models = for %{"kind" => "model", "attributes" => attributes} <- spans, do: attributes
    usage = %{cost: cost(models, 0.0), model_requests: length(models)}

    for {name, key} <- @counts,
        reduce: usage,
        do: (usage -> Map.put(usage, name, sum(models, key, 0)))
  end

  defp sum([%{} = attributes | models], key, sum) do
    case attributes do
      %{^key => count} when is_number(count) -> sum(models, key, sum + count)
      _unknown -> sum(models, key, sum)
    end
  end

  defp sum([], _key, sum), do: sum

  defp cost([%{"cost" => cost} | models], sum) when is_number(cost), do: cost(models, sum + cost)
  # It was answered.
  defp cost([%{"total_tokens" => tokens} | _models], _sum) when tokens != nil, do: nil
  # One that failed costs nothing that is known.
  defp cost([_failed | models], sum), do: cost(models, sum)
  defp cost([], sum), do: sum
end
