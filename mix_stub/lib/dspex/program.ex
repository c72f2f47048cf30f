defmodule DSPex.Program do
  @moduledoc """
  A program that lives in a session of a pool's Python, to be executed by `DSPex.Python.execute_program/3`.

  It is only a reference: it is gone when its session is closed or idle for too long, or when Python is restarted.
  Its `id` alone is enough to execute it, which then executes its newest version; a `%DSPex.Program{}` is executed in its
  own version.

  `compiled` says how `DSPex.Python.compile_program/3` has made this version, see there; it is `nil` for one that was written by
  hand.
  """

  @enforce_keys [:id, :session_id, :pool]
  defstruct [:id, :session_id, :pool, :compiled, version: 1]

  @type t :: %__MODULE__{
          id: String.t(),
          session_id: String.t(),
          pool: atom(),
          version: pos_integer(),
          compiled: compiled() | nil
        }

  @typedoc "How a version came to be. `score` is from 0 to 100, and `nil` if no candidate was scored as a whole."
  @type compiled :: %{
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
  @spec from_term(map(), atom()) :: t()
  def from_term(%{"id" => id, "session_id" => session_id} = term, pool) do
    %__MODULE__{
      id: id,
      session_id: session_id,
      pool: pool,
      version: Map.get(term, "version", 1),
      compiled: compiled(term["compiled"])
    }
  end

  defp compiled(nil), do: nil
  defp compiled(term), do: Map.new(@compiled, &{&1, term[Atom.to_string(&1)]})
end
