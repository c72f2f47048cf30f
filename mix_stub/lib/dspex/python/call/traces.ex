defmodule DSPex.Python.Call.Traces do
  @moduledoc false

  # Makes the traces of calls: the spans of the BEAM around those of Python, and puts them into results.

  alias DSPex.{Prediction, Trace}
  alias DSPex.Python.Error
  alias DSPex.Python.Wire.UniqueId

  @enforce_keys [:trace_id, :span_id]
  defstruct [:trace_id, :span_id, :parent_id, flags: "01"]

  @typedoc "The names of a call in its trace: those of the trace, of the span of the call, and of the span around it."
  @type t :: %__MODULE__{
          trace_id: String.t(),
          span_id: String.t(),
          parent_id: String.t() | nil,
          flags: String.t()
        }

  # Only versions after 00 may have more.
  defp w3c do
    ~r/\A(?:00(?=.{53}\z)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\z/
  end

  @doc """
  Names a call; within the trace of the caller, if there is one. A malformed header counts as none, as W3C wants.
  """
  @spec new(term()) :: t()
  def new(traceparent) do
    with true <- is_binary(traceparent),
         [_all, trace_id, parent_id, flags] <- Regex.run(w3c(), traceparent) do
      <<span_id::binary-16>> = UniqueId.new(8)
      %__MODULE__{trace_id: trace_id, span_id: span_id, parent_id: parent_id, flags: flags}
    else
      _none ->
        <<trace_id::binary-32, span_id::binary-16>> = UniqueId.new(24)
        %__MODULE__{trace_id: trace_id, span_id: span_id}
    end
  end

  @doc """
  Names a call by the span that the application's tracer has made for it, within the span around it.
  """
  @spec of_span(String.t(), term()) :: t()
  def of_span(header, parent) do
    [_all, trace_id, span_id, flags] = Regex.run(w3c(), header)
    # The header of another trace is that of no parent: it was malformed for the tracer.
    around = new(parent)
    parent_id = if around.trace_id == trace_id, do: around.parent_id
    %__MODULE__{trace_id: trace_id, span_id: span_id, parent_id: parent_id, flags: flags}
  end

  @doc """
  Returns the header of W3C Trace Context that makes Python's spans children of the call.
  """
  @spec traceparent(t()) :: String.t()
  def traceparent(traces), do: "00-#{traces.trace_id}-#{traces.span_id}-#{traces.flags}"

  @doc """
  Returns the trace of a call with the spans of Python, if there are any. Without an outcome the call goes on.
  """
  @spec of_call(map(), map() | nil, %{result: atom(), error: Error.t() | nil} | nil) :: Trace.t()
  def of_call(call, term, outcome) do
    spans = if term, do: term["spans"], else: []
    queue = Enum.find_value(spans, [], &queue(&1, call))

    %Trace{
      id: call.traces.trace_id,
      spans: [call_span(call, outcome) | queue ++ spans],
      dropped: if(term, do: term["dropped"], else: 0)
    }
  end

  defp call_span(call, outcome) do
    native = System.monotonic_time() - call.started

    %{
      "id" => call.traces.span_id,
      "parent" => call.traces.parent_id,
      "kind" => "call",
      "name" => Atom.to_string(call.metadata.operation),
      "start_us" => call.started_us,
      "duration_us" => System.convert_time_unit(native, :native, :microsecond),
      "status" => status(outcome),
      "error" => error(outcome, call.redacts?),
      "attributes" => attributes(call.metadata)
    }
  end

  defp status(nil), do: "ok"
  defp status(%{result: :ok}), do: "ok"
  defp status(%{result: :cancelled}), do: "cancelled"
  defp status(_error), do: "error"

  # Its message may quote what the application redacts.
  defp error(%{error: %Error{} = error}, redacts?) do
    message = if redacts?, do: "[redacted]", else: error.message
    %{"kind" => Atom.to_string(error.kind), "message" => message}
  end

  defp error(_none, _redacts?), do: nil

  @doc """
  Returns the attributes of the span of a call.
  """
  @spec attributes(map()) :: %{String.t() => term()}
  def attributes(metadata) do
    for name <- [
          :pool,
          :module,
          :program,
          :version,
          :session,
          :conversation,
          :request_id,
          :metadata
        ],
        value = metadata[name],
        value not in [nil, %{}],
        into: %{},
        do: {Atom.to_string(name), plain(value)}
  end

  # A value that JSON can hold.
  defp plain(%{__struct__: _module} = struct), do: inspect(struct, limit: 20)
  defp plain(%{} = map), do: Map.new(map, fn {key, value} -> {text(key), plain(value)} end)

  defp plain(list) when is_list(list),
    do: if(proper?(list), do: Enum.map(list, &plain/1), else: inspect(list))

  defp plain(value) when is_number(value) or is_boolean(value) or is_nil(value), do: value
  defp plain(other), do: text(other)

  defp text(atom) when is_atom(atom),
    do: atom |> Atom.to_string() |> String.replace_prefix("Elixir.", "")

  defp text(text) when is_binary(text), do: if(String.valid?(text), do: text, else: inspect(text))
  defp text(other), do: inspect(other, limit: 20)

  # An improper list has no length.
  defp proper?(list) do
    is_integer(:erlang.length(list))
  rescue
    ArgumentError -> false
  end

  defp queue(%{"kind" => "python", "start_us" => start_us} = span, call) do
    [
      %{
        # The same each time that the trace of an item is made.
        "id" => flipped(span["id"]),
        "parent" => call.traces.span_id,
        "kind" => "queue",
        "name" => "queue",
        "start_us" => call.started_us,
        "duration_us" => max(start_us - call.started_us, 0),
        "status" => "ok",
        "error" => nil,
        "attributes" => %{}
      }
    ]
  end

  defp queue(_span, _call), do: nil

  defp flipped(id) do
    <<number::64>> = Base.decode16!(id, case: :lower)
    Base.encode16(<<Bitwise.bxor(number, 0xFFFF_FFFF_FFFF_FFFF)::64>>, case: :lower)
  end

  @doc """
  Returns the trace of an item within that of its call.
  """
  @spec within(Trace.t() | nil, Trace.t() | map()) :: Trace.t()
  def within(nil, %Trace{} = trace), do: trace
  def within(outer, %Trace{} = trace), do: Trace.join([outer, trace])

  def within(outer, %{"spans" => spans}),
    do: Trace.join([outer, %Trace{id: outer.id, spans: spans, dropped: outer.dropped}])

  @doc """
  Returns the trace of a call with those of its items, which have not been put into their results yet.
  """
  @spec joined(Trace.t(), [term()]) :: Trace.t()
  def joined(outer, items) do
    traces = for item <- items, {_item, %{} = term} <- [pop(item)], do: within(outer, term)
    Trace.join([outer | traces])
  end

  @doc """
  Takes the spans out of the result of an item: those of Python, or a trace; `nil` if it has none.
  """
  @spec pop(term()) :: {term(), map() | Trace.t() | nil}
  def pop({status, result, %{"spans" => _spans} = term}), do: {{status, result}, term}
  def pop(%{"ok" => _result, "trace" => term} = item), do: {Map.delete(item, "trace"), term}
  def pop(%{"error" => _error, "trace" => term} = item), do: {Map.delete(item, "trace"), term}

  def pop({:ok, %Prediction{trace: trace} = prediction}),
    do: {{:ok, %{prediction | trace: nil}}, trace}

  def pop({:ok, %{prediction: %Prediction{} = prediction, score: _score} = scored}) do
    {{:ok, prediction}, trace} = pop({:ok, prediction})
    {{:ok, %{scored | prediction: prediction}}, trace}
  end

  def pop({:error, %Error{trace: trace} = error}), do: {{:error, %{error | trace: nil}}, trace}
  def pop(item), do: {item, nil}

  @doc """
  Gives the spans of an item in its result this index.
  """
  @spec renumbered(term(), non_neg_integer()) :: term()
  def renumbered(result, index) do
    case pop(result) do
      {item, %Trace{spans: spans} = trace} ->
        spans =
          for span <- spans do
            case span do
              %{"kind" => "item"} ->
                attributes = Map.put(span["attributes"], "index", index)
                %{span | "name" => "item #{index}", "attributes" => attributes}

              other ->
                other
            end
          end

        put(item, %{trace | spans: spans})

      {_item, _none} ->
        result
    end
  end

  @doc """
  Puts a trace into a value of Python, or into the result of an item; leaves out `nil`, and values that have no place for it.
  """
  @spec put(term(), Trace.t() | nil) :: term()
  def put(value, nil), do: value
  def put({:ok, value}, trace), do: {:ok, put(value, trace)}

  def put({:error, {:python_exception, details}}, trace),
    do: {:error, {:python_exception, Map.put(details, "trace", trace)}}

  def put({:error, %Error{} = error}, trace), do: {:error, %{error | trace: trace}}
  def put(%Prediction{} = prediction, trace), do: %{prediction | trace: trace}
  def put(%{"ok" => value} = item, trace), do: %{item | "ok" => put(value, trace)}

  def put(%{"error" => details} = item, trace),
    do: %{item | "error" => Map.put(details, "trace", trace)}

  def put(%{"$meta" => meta} = term, trace),
    do: %{term | "$meta" => Map.put(meta, "trace", trace)}

  def put(%{prediction: %Prediction{} = prediction, score: _score} = scored, trace),
    do: %{scored | prediction: put(prediction, trace)}

  def put(%{"prediction" => term, "score" => _score} = scored, trace),
    do: %{scored | "prediction" => put(term, trace)}

  def put(%{"id" => _id, "session_id" => _session} = program, trace),
    do: Map.put(program, "trace", trace)

  def put(value, _trace), do: value

  @doc """
  Returns how long the call waited for Python, and how long Python took, and which worker that was.
  """
  @spec python_times([Trace.span()], integer()) :: %{
          optional(:measurements) => map(),
          optional(:worker) => pos_integer() | nil
        }
  def python_times(spans, called_us) do
    Enum.find_value(spans, %{}, fn
      %{"kind" => "python", "start_us" => start_us, "duration_us" => duration_us} = span ->
        queued_us = max(start_us - called_us, 0)
        measurements = %{queue_time: native(queued_us), python_time: native(duration_us)}
        %{measurements: measurements, worker: span["attributes"]["worker"]}

      _other ->
        nil
    end)
  end

  @doc """
  Converts microseconds to native units of time.
  """
  @spec native(integer()) :: integer()
  def native(us), do: :erlang.convert_time_unit(us, :microsecond, :native)
end
