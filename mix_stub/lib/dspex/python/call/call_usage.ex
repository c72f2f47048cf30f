defmodule DSPex.Python.Call.CallUsage do
  @moduledoc false

  # Sums up what a call has used, for its last event, from the spans of Python as they come.

  alias DSPex.Trace

  @typedoc "What `DSPex.Trace.usage/1` returns, with `:model` and `:provider` of the last answer; `nil`: nothing is known."
  @type t :: %{optional(atom()) => number() | String.t() | nil} | nil

  @doc """
  Adds what spans tell.
  """
  @spec add(t(), [Trace.span()]) :: t()
  def add(usage, spans) do
    # Without spans of Python nothing is known.
    if Enum.all?(spans, &(&1["kind"] in ["call", "queue"])),
      do: usage,
      else: add_known(usage, spans)
  end

  defp add_known(usage, spans) do
    new = Trace.usage(%Trace{id: "", spans: spans})
    # Of most calls it is the first one.
    sum = if usage == nil, do: new, else: Map.merge(usage, new, &sum/3)
    {model, provider} = answered(spans, {usage[:model], usage[:provider]})
    sum |> Map.put(:model, model) |> Map.put(:provider, provider)
  end

  defp sum(_name, one, other) when is_number(one) and is_number(other), do: one + other
  defp sum(_name, _one, _other), do: nil

  # Who gave the last answer.
  defp answered([%{"kind" => "model", "status" => "ok", "attributes" => told} | spans], before),
    do: answered(spans, {told["model"] || elem(before, 0), told["provider"] || elem(before, 1)})

  defp answered([_other | spans], before), do: answered(spans, before)
  defp answered([], found), do: found

  @doc """
  Returns the measurements that are known.
  """
  @spec known(map()) :: %{atom() => number()}
  def known(usage), do: :maps.filter(fn _name, value -> is_number(value) end, usage)
end
