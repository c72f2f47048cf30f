defmodule DSPex.Prediction do
  @moduledoc """
  Holds the answer of a DSPy module.

  Read output fields in brackets, by atom or by string. No atom is ever made from what a model wrote:

      prediction[:answer]
      prediction["answer"]

  Brackets return `nil` for a field that is not there, as for a map; `fetch!/2` raises, and suggests the field that was meant.
  `prediction.answer` raises: a struct has only the fields below.

  `to_string/1` (and `"\#{prediction}"`) gives the text of the output field; of several fields, lines of `name: value`. `inspect` shows
  the output fields, and in short the tokens, the cost and the warnings of the call. Jason and Elixir's `JSON` encode a prediction as
  `to_map/1` does.

  ## Fields

    * `:fields` - every output field by its name, a map with string keys
    * `:names` - the names of the output fields, in the order of the signature
    * `:reasoning` - the text that leads to the answer, or `nil` if the module has none
    * `:completions` - every answer of the model as a map of its fields; more than one for calls with `:n`
    * `:usage` - tokens used, by model
    * `:duration_ms` - how long Python worked on the call
    * `:warnings` - what Python did not do as requested, such as options that the module does not take
    * `:model` - the language model that answered
    * `:trace` - what happened in the call, a `DSPex.Trace`, if it was asked for by the option `trace: true`
    * `:meta` - everything that Python sent about the call, a map with string keys, such as `"cost"` (US dollars, `nil` if unknown),
      `"cache_hits"` and `"failed_models"`
  """

  @behaviour Access

  alias DSPex.{Suggestion, Trace}

  @meta_key "$meta"
  # What a prediction has of it in fields of its own.
  @unknown Map.from_keys(~w(fields completions usage duration_ms warnings model trace), nil)
  # Fields that modules add to explain their answer.
  @accounts ~w(reasoning rationale trajectory)
  # Fields that dspy.ReActV2 and dspy.RLM add; an output of a signature may have such a name.
  @other_accounts ~w(history termination_reason final_reasoning)
  # The keys of a trajectory of dspy.ReAct and dspy.CodeAct, without the number of the step.
  @step_keys %{
    "thought" => :thought,
    "tool_name" => :tool,
    "tool_args" => :args,
    "generated_code" => :code,
    "observation" => :observation,
    "code_output" => :observation
  }
  @step %{thought: nil, tool: nil, args: nil, code: nil, observation: nil}

  @enforce_keys [:fields]
  defstruct [
    :fields,
    :reasoning,
    :usage,
    :duration_ms,
    :model,
    :trace,
    names: [],
    completions: [],
    warnings: [],
    meta: %{}
  ]

  @type name :: atom() | String.t()
  @type t :: %__MODULE__{
          fields: %{String.t() => term()},
          names: [String.t()],
          reasoning: term(),
          completions: [map()],
          usage: map() | nil,
          duration_ms: number() | nil,
          warnings: [String.t()],
          model: String.t() | nil,
          trace: Trace.t() | nil,
          meta: map()
        }

  @typedoc "A step of an agent. What the module does not have is `nil`."
  @type step :: %{
          thought: String.t() | nil,
          tool: String.t() | nil,
          args: map() | nil,
          code: String.t() | nil,
          observation: term()
        }

  @doc """
  Makes a prediction from the map that Python sends: output fields, and the rest under `"$meta"`.

      iex> prediction = DSPex.Prediction.from_term(%{"answer" => "4", "$meta" => %{"model" => "m"}})
      iex> {prediction[:answer], prediction["answer"], prediction.model}
      {"4", "4", "m"}
  """
  @spec from_term(map()) :: t()
  def from_term(term) when is_map(term) do
    {meta, fields} = Map.pop(term, @meta_key, %{})

    # One pattern takes fewer steps than looking up each key.
    %{
      "fields" => names,
      "completions" => completions,
      "usage" => usage,
      "duration_ms" => duration_ms,
      "warnings" => warnings,
      "model" => model,
      "trace" => trace
    } = Map.merge(@unknown, meta)

    %__MODULE__{
      fields: fields,
      names: names(names, fields),
      reasoning: fields["reasoning"],
      completions: completions || [],
      usage: usage,
      duration_ms: duration_ms,
      warnings: warnings || [],
      model: model,
      trace: trace,
      meta: Map.delete(meta, "trace")
    }
  end

  @doc """
  Returns an output field, or `default` if there is no field of that name.

      iex> prediction = DSPex.Prediction.from_term(%{"answer" => "4"})
      iex> {DSPex.Prediction.get(prediction, :answer), DSPex.Prediction.get(prediction, "score", 0)}
      {"4", 0}
  """
  @spec get(t(), name(), term()) :: term()
  def get(%__MODULE__{fields: fields}, name, default \\ nil),
    do: Map.get(fields, key(name), default)

  @doc """
  Returns an output field; raises a `KeyError` that suggests a name if there is no field of that name.

      iex> prediction = DSPex.Prediction.from_term(%{"answer" => "4"})
      iex> DSPex.Prediction.fetch!(prediction, :answer)
      "4"
      iex> DSPex.Prediction.fetch!(prediction, :answr)
      ** (KeyError) no output field :answr in the prediction (did you mean :answer?)
  """
  @spec fetch!(t(), name()) :: term()
  def fetch!(%__MODULE__{fields: fields} = prediction, name) do
    with :error <- Map.fetch(fields, key(name)) do
      hint = Suggestion.hint(key(name), Map.keys(fields))
      # Written as the name was. No atom is made: it is only text.
      hint = if is_atom(name), do: String.replace(hint, ~r/"(\w+)"/u, ":\\1"), else: hint
      message = "no output field #{inspect(name)} in the prediction#{hint}"
      raise KeyError, key: name, term: prediction, message: message
    else
      {:ok, value} -> value
    end
  end

  @doc """
  Returns the output fields as a plain map with string keys.

      iex> DSPex.Prediction.to_map(DSPex.Prediction.from_term(%{"answer" => "4", "$meta" => %{}}))
      %{"answer" => "4"}
  """
  @spec to_map(t()) :: %{String.t() => term()}
  def to_map(%__MODULE__{fields: fields}), do: fields

  @doc """
  Returns the main output: the first output field other than `reasoning`, `rationale` and `trajectory`; `nil` if there is
  none.

      iex> DSPex.Prediction.main(DSPex.Prediction.from_term(%{"answer" => "4", "reasoning" => "2 + 2"}))
      "4"
  """
  @spec main(t()) :: term()
  def main(%__MODULE__{names: names, fields: fields}) do
    case names -- @accounts do
      [name | _rest] -> fields[name]
      [] -> nil
    end
  end

  @doc """
  Returns the tokens that each language model used, as its provider counted them: maps with string keys by the model's name.
  Empty if none were counted. `total_tokens/1` adds them up.

      iex> usage = %{"openai/gpt-4o-mini" => %{"prompt_tokens" => 90, "completion_tokens" => 30, "total_tokens" => 120}}
      iex> prediction = DSPex.Prediction.from_term(%{"answer" => "4", "$meta" => %{"usage" => usage}})
      iex> DSPex.Prediction.usage(prediction)["openai/gpt-4o-mini"]["prompt_tokens"]
      90
  """
  @spec usage(t()) :: %{String.t() => %{String.t() => term()}}
  def usage(%__MODULE__{usage: usage}), do: usage || %{}

  @doc """
  Returns the number of all tokens that the call used, of all its models; 0 if none were counted.

      iex> usage = %{"a" => %{"total_tokens" => 100}, "b" => %{"prompt_tokens" => 15, "completion_tokens" => 5}}
      iex> DSPex.Prediction.total_tokens(DSPex.Prediction.from_term(%{"$meta" => %{"usage" => usage}}))
      120
  """
  @spec total_tokens(t()) :: non_neg_integer()
  def total_tokens(%__MODULE__{} = prediction), do: prediction |> usage() |> usage_tokens()

  @doc false
  # Returns the number of all tokens of a usage, which errors have too.
  @spec usage_tokens(map()) :: non_neg_integer()
  def usage_tokens(usage),
    do: usage |> Enum.map(fn {_model, counts} -> tokens(counts) end) |> Enum.sum()

  @doc """
  Returns what the call cost, in US dollars; `nil` if the price of one of its answers is unknown.

      iex> DSPex.Prediction.cost(DSPex.Prediction.from_term(%{"answer" => "4", "$meta" => %{"cost" => 0.0003}}))
      0.0003
  """
  @spec cost(t()) :: float() | nil
  def cost(%__MODULE__{meta: meta}), do: meta["cost"]

  @doc """
  Returns the steps of an agent, oldest first: what it thought, which tool it called with which arguments (or which code it ran), and
  what it observed.

  Reads the `trajectory` of `dspy.ReAct`, `dspy.CodeAct` and `dspy.RLM`, and the `history` of `dspy.ReActV2`, with one step for each
  call of a tool. Returns `[]` for modules without steps.

      iex> trajectory = %{
      ...>   "thought_0" => "I look it up.", "tool_name_0" => "stock", "tool_args_0" => %{"article" => "bolt"}, "observation_0" => 3
      ...> }
      iex> DSPex.Prediction.steps(DSPex.Prediction.from_term(%{"answer" => "3", "trajectory" => trajectory}))
      [%{thought: "I look it up.", tool: "stock", args: %{"article" => "bolt"}, code: nil, observation: 3}]
  """
  @spec steps(t()) :: [step()]
  def steps(%__MODULE__{fields: %{"trajectory" => trajectory}}) when is_map(trajectory) do
    trajectory
    |> Enum.flat_map(&numbered/1)
    |> Enum.group_by(fn {number, _part} -> number end, fn {_number, part} -> part end)
    |> Enum.sort_by(fn {number, _parts} -> number end)
    |> Enum.map(fn {_number, parts} -> Enum.into(parts, @step) end)
  end

  def steps(%__MODULE__{fields: %{"trajectory" => entries}}) when is_list(entries) do
    for %{"code" => code} = entry <- entries do
      %{@step | thought: entry["reasoning"], code: code, observation: entry["output"]}
    end
  end

  def steps(%__MODULE__{fields: %{"history" => %{"messages" => turns}}}) when is_list(turns),
    do: Enum.flat_map(turns, &turn_steps/1)

  def steps(%__MODULE__{}), do: []

  @impl Access
  def fetch(%__MODULE__{fields: fields}, name), do: Map.fetch(fields, key(name))

  @impl Access
  def get_and_update(%__MODULE__{fields: fields} = prediction, name, update) do
    {value, fields} = Map.get_and_update(fields, key(name), update)
    {value, %{prediction | fields: fields}}
  end

  @impl Access
  def pop(%__MODULE__{fields: fields} = prediction, name) do
    {value, fields} = Map.pop(fields, key(name))
    {value, %{prediction | fields: fields}}
  end

  @doc false
  # Returns the names of the fields that are there, in the order of the signature; without those that modules add, unless
  # there are no others.
  @spec output_names(t()) :: [String.t()]
  def output_names(%__MODULE__{names: names, fields: fields}) do
    names = Enum.filter(names, &is_map_key(fields, &1))

    # Only an agent has these names together.
    added =
      if "termination_reason" in names or "trajectory" in names,
        do: @accounts ++ @other_accounts,
        else: @accounts

    case names -- added do
      [] -> names
      outputs -> outputs
    end
  end

  defp tokens(%{"total_tokens" => total}) when is_number(total), do: total

  defp tokens(%{} = counts) do
    for name <- ~w(prompt_tokens completion_tokens), is_number(counts[name]), reduce: 0 do
      sum -> sum + counts[name]
    end
  end

  defp tokens(_unknown), do: 0

  defp numbered({key, value}) do
    with true <- is_binary(key),
         [_all, name, number] <- Regex.run(~r/^([a-z_]+)_(\d+)$/, key),
         {:ok, part} <- Map.fetch(@step_keys, name) do
      [{String.to_integer(number), {part, value}}]
    else
      _other -> []
    end
  end

  # The results of a turn are in the order of its calls, or fewer.
  defp turn_steps(%{"tool_calls" => %{"tool_calls" => calls} = tool_calls} = turn) do
    results = get_in(tool_calls, ["tool_call_results", "tool_call_results"]) || []

    calls
    |> Enum.with_index()
    |> Enum.map(fn {call, index} ->
      observation = (Enum.at(results, index) || %{})["value"]
      thought = turn["next_thought"]

      %{
        @step
        | thought: thought,
          tool: call["name"],
          args: call["args"],
          observation: observation
      }
    end)
  end

  defp turn_steps(_turn), do: []

  # Fields that are not in the signature come last: a model may invent some.
  defp names(nil, fields), do: fields |> Map.keys() |> Enum.sort()

  defp names(ordered, fields) do
    case Map.keys(fields) -- ordered do
      [] -> ordered
      others -> ordered ++ Enum.sort(others)
    end
  end

  defp key(name) when is_atom(name), do: Atom.to_string(name)
  defp key(name) when is_binary(name), do: name

  defp key(other) do
    raise ArgumentError,
          "expected the name of an output field as an atom or a string, got #{inspect(other)}"
  end

  defimpl String.Chars do
    alias DSPex.Prediction

    def to_string(%{fields: fields} = prediction) do
      case Prediction.output_names(prediction) do
        [name] -> text(fields[name])
        names -> Enum.map_join(names, "\n", &"#{&1}: #{text(fields[&1])}")
      end
    end

    defp text(text) when is_binary(text),
      do: if(String.valid?(text), do: text, else: inspect(text))

    defp text(value) when is_number(value) or is_atom(value), do: Kernel.to_string(value)

    defp text(value) do
      # Dates, times and decimals are text as people write it.
      if is_struct(value) and String.Chars.impl_for(value) != nil,
        do: Kernel.to_string(value),
        else: inspect(value, limit: :infinity, printable_limit: :infinity)
    end
  end

  defimpl Inspect do
    import Inspect.Algebra

    # IEx shows the beginning of a long text; `fields` have all of it.
    @max_characters 120
    @hint "(read an output field in brackets, such as "
    @functions "read what the call used by functions: DSPex.Prediction.cost/1, usage/1, total_tokens/1, steps/1"

    def inspect(prediction, options) do
      options = %{options | printable_limit: printable_limit(options.printable_limit)}
      fields = for name <- prediction.names, is_map_key(prediction.fields, name), do: name
      entries = Enum.map(fields, &{&1, prediction.fields[&1]}) ++ call(prediction)
      separator = color(",", :map, options)

      entry = fn {name, value}, options ->
        concat([name, ": ", to_doc(short(value, options), options)])
      end

      "#DSPex.Prediction<"
      |> container_doc(entries, ">", options, entry, separator: separator, break: :strict)
      |> with_hint(fields)
    end

    # What the call used and did not do, if anything.
    defp call(prediction) do
      [
        {"tokens", DSPex.Prediction.total_tokens(prediction)},
        {"cost", DSPex.Prediction.cost(prediction)},
        {"warnings", prediction.warnings}
      ]
      |> Enum.reject(fn {_name, value} -> value in [nil, 0, 0.0, []] end)
    end

    defp printable_limit(:infinity), do: :infinity
    defp printable_limit(limit), do: min(limit, @max_characters)

    defp short(text, %{printable_limit: limit}) when is_binary(text) and is_integer(limit) do
      if String.valid?(text) and String.length(text) > limit,
        do: String.slice(text, 0, limit - 1) <> "…",
        else: text
    end

    defp short(value, _options), do: value

    # `prediction.answer` raises a KeyError, whose message shows the field that is said not to be there. So the message
    # says how to read it. KeyError inspects its term when the message is made, which the stacktrace tells.
    defp with_hint(doc, [name | _rest]) do
      if in_message_of_exception?(),
        do: concat(doc, string(" " <> @hint <> "prediction[:#{name}]; #{@functions})")),
        else: doc
    end

    defp with_hint(doc, []), do: doc

    # Tells whether an exception calls Kernel.inspect/2 with the prediction, and not with a value that holds it. In Elixir 1.20 the
    # message is made in Exception.
    defp in_message_of_exception? do
      {:current_stacktrace, frames} = Process.info(self(), :current_stacktrace)
      callers = for {module, _function, _arity, _location} <- frames, do: module
      callers = Enum.drop_while(callers, &(&1 in [Process, __MODULE__, Inspect.Algebra]))
      match?([Kernel, module | _rest] when module in [KeyError, Exception], callers)
    end
  end
end
