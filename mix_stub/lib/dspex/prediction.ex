defmodule DSPex.Prediction do
  @moduledoc """
  Holds the answer of a DSPy module.

  Read output fields by atom or by string. No atom is ever made from what a model wrote:

      prediction[:answer]
      prediction["answer"]

  ## Fields

    * `:fields` - every output field by its name, a map with string keys
    * `:names` - the names of the output fields, in the order of the signature
    * `:reasoning` - the text that leads to the answer, or `nil` if the module has none
    * `:completions` - every answer of the model as a map of its fields; more than one for calls with `:n`
    * `:usage` - tokens used, by model
    * `:duration_ms` - how long Python worked on the call
    * `:warnings` - what Python did not do as requested, such as options that the module does not take
    * `:model` - the language model that answered
    * `:meta` - everything that Python sent about the call, a map with string keys, such as `"cost"` (US dollars, `nil` if unknown),
      `"cache_hits"` and `"failed_models"`
  """

  @behaviour Access

  @meta_key "$meta"
  # Fields that modules add to explain their answer.
  @accounts ~w(reasoning rationale trajectory)

  @enforce_keys [:fields]
  defstruct [
    :fields,
    :reasoning,
    :usage,
    :duration_ms,
    :model,
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
          meta: map()
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

    %__MODULE__{
      fields: fields,
      names: names(meta["fields"], fields),
      reasoning: fields["reasoning"],
      completions: meta["completions"] || [],
      usage: meta["usage"],
      duration_ms: meta["duration_ms"],
      warnings: meta["warnings"] || [],
      model: meta["model"],
      meta: meta
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

  # Fields that are not in the signature come last: a model may invent some.
  defp names(nil, fields), do: fields |> Map.keys() |> Enum.sort()
  defp names(ordered, fields), do: ordered ++ Enum.sort(Map.keys(fields) -- ordered)

  defp key(name) when is_atom(name), do: Atom.to_string(name)
  defp key(name) when is_binary(name), do: name

  defp key(other) do
    raise ArgumentError,
          "expected the name of an output field as an atom or a string, got #{inspect(other)}"
  end

  defimpl Inspect do
    import Inspect.Algebra

    # IEx shows the beginning of a long text; `fields` have all of it.
    @max_characters 120

    def inspect(prediction, options) do
      fields = for name <- prediction.names, is_map_key(prediction.fields, name), do: name
      separator = color(",", :map, options)

      entry = fn name, options ->
        concat([name, ": ", to_doc(short(prediction.fields[name]), options)])
      end

      container_doc("#DSPex.Prediction<", fields, ">", options, entry,
        separator: separator,
        break: :strict
      )
    end

    defp short(text) when is_binary(text) do
      if String.valid?(text) and String.length(text) > @max_characters do
        String.slice(text, 0, @max_characters) <> "…"
      else
        text
      end
    end

    defp short(value), do: value
  end
end
