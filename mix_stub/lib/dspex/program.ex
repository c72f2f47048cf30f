defmodule DSPex.Program do
  @moduledoc """
  A program that lives in a session of a pool's Python, to be executed by `DSPex.Python.execute_program/3`.

  It is only a reference: it is gone when its session is closed or idle for too long, or when Python is restarted.
  Its `id` alone is enough to execute it.
  """

  @enforce_keys [:id, :session_id, :pool]
  defstruct [:id, :session_id, :pool, version: 1]

  @type t :: %__MODULE__{
          id: String.t(),
          session_id: String.t(),
          pool: atom(),
          version: pos_integer()
        }

  @doc false
  @spec from_term(map(), atom()) :: t()
  def from_term(%{"id" => id, "session_id" => session_id} = term, pool) do
    %__MODULE__{id: id, session_id: session_id, pool: pool, version: Map.get(term, "version", 1)}
  end
end
