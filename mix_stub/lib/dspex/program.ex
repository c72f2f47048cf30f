defmodule DSPex.Program do
  @moduledoc """
  Refers to a program in a session of a pool's Python, which `DSPex.Python.execute_program/3` executes.

  The program is lost when its session is closed, and when Python is restarted in a pool with `store: false`. A `%DSPex.Program{}` is
  executed in its own version; its `id` alone executes the newest version.

  `trace` is the `DSPex.Trace` of the compilation, if it was asked for by the option `trace: true`.

  `compiled` is the optimizer's report from `DSPex.Python.compile_program/3`, or `nil` for a program that was written by hand.
  """

  @enforce_keys [:id, :session_id, :pool]
  defstruct [:id, :session_id, :pool, :compiled, :trace, version: 1]

  @type t :: %__MODULE__{
          id: String.t(),
          session_id: String.t(),
          pool: atom() | {:cluster, atom()},
          version: pos_integer(),
          compiled: compiled() | nil,
          trace: DSPex.Trace.t() | nil
        }

  @typedoc """
  The optimizer's report. `score` is from 0 to 100, and `nil` if no candidate was scored as a whole.

  There is `dump` only if the program was deleted while it was compiled: the version as text, which
  `DSPex.Python.load_program/2` takes. There is `kept_answers` only for a compilation with a `:request_id` in a pool with a
  store: how many requests to models were answered from an earlier run.
  """
  @type compiled :: %{
          optional(:dump) => String.t(),
          optional(:kept_answers) => non_neg_integer(),
          optimizer: String.t(),
          score: float() | nil,
          candidates: [float()],
          metric_calls: non_neg_integer(),
          failures: non_neg_integer(),
          demos: %{String.t() => non_neg_integer()},
          cost: float() | nil,
          cache_hits: non_neg_integer(),
          duration_ms: float(),
          warnings: [String.t()]
        }

  @compiled ~w(optimizer score candidates metric_calls failures demos cost cache_hits duration_ms warnings)a

  @doc false
  @spec from_term(map(), atom() | {:cluster, atom()}) :: t()
  def from_term(%{"id" => id, "session_id" => session_id} = term, pool) do
    %__MODULE__{
      id: id,
      session_id: session_id,
      pool: pool,
      version: Map.get(term, "version", 1),
      compiled: compiled(term["compiled"]),
      trace: term["trace"]
    }
  end

  defp compiled(nil), do: nil

  defp compiled(term) do
    report = Map.new(@compiled, &{&1, term[Atom.to_string(&1)]})

    for key <- [:dump, :kept_answers],
        value = term[Atom.to_string(key)],
        into: report,
        do: {key, value}
  end
end
