defmodule DSPex.Python.Port.StoreOption do
  @moduledoc false

  # The option `:store` of a pool. An address may have a password, so the options hold it in a function, as `:env`, no message
  # shows it, and Python gets it by its environment.

  alias DSPex.Python.Port.{Environment, RunStore}

  @variable "DSPEX_STORE"
  @name_variable "DSPEX_STORE_NAME"
  @beginnings ["sqlite:///", "postgresql://", "postgresql+psycopg://"]
  @ttl_variable "DSPEX_SESSION_TTL_MS"
  @address "an address such as \"sqlite:////srv/app/dspex.db\" or \"postgresql+psycopg://user:password@host/database\""

  @doc """
  Checks the option; the error does not show the value.
  """
  @spec validate(term()) :: :ok | {:error, String.t()}
  def validate(value) when value in [:run, false], do: :ok

  def validate({:system, name}) do
    if Environment.variable?(name), do: :ok, else: unexpected()
  end

  def validate("sqlite:///:memory:" <> _parameters) do
    {:error,
     "expected a file, since each Python would have a database of its own in its memory; give :run or false"}
  end

  def validate(address) do
    if Environment.text?(address) and String.starts_with?(address, @beginnings),
      do: :ok,
      else: unexpected()
  end

  defp unexpected, do: {:error, "expected :run, false, {:system, variable}, or #{@address}"}

  @doc """
  Tells whether a pool has a store.
  """
  @spec store?(struct()) :: boolean()
  def store?(options), do: read(options.store.()) != false

  # What the environment says, in the words of the option.
  defp read({:system, name} = variable) do
    case name |> System.get_env("") |> String.trim() do
      "" -> variable
      text when text in ["false", "none"] -> false
      text when text in ["run", ":run"] -> :run
      text -> if validate(text) == :ok, do: text, else: {:wrong, name}
    end
  end

  defp read(value), do: value

  @doc """
  Returns the variables of Python's environment that are about the store of a pool; the error is a sentence.
  """
  @spec variables(struct()) ::
          {:ok, %{String.t() => String.t() | nil}} | {:error, String.t()}
  def variables(options) do
    with {:ok, address} <- address(options.name, read(options.store.())) do
      # Without a store, which the environment may say, nothing lives long.
      ttl = options.session_ttl
      of_ttl = if ttl, do: %{@ttl_variable => to_string(ttl)}, else: %{}

      of_store = %{@variable => address, @name_variable => place(options)}
      {:ok, Map.merge(of_ttl, of_store)}
    end
  end

  # Where the user has written the address, for errors.
  defp place(options) do
    option = "store: of pool #{inspect(options.name)}"

    case options.store.() do
      {:system, name} -> "the environment variable #{name}, #{option}"
      _literal -> option
    end
  end

  defp address(_pool, false), do: {:ok, nil}

  defp address(pool, :run) do
    # It has to survive Python, and not a power cut, so nothing waits for the disk.
    path = RunStore.path(pool)
    {:ok, path && "sqlite:///" <> path <> "?synchronous=OFF"}
  end

  defp address(pool, {:system, name}) do
    {:error,
     "the environment variable #{name} is not set, or empty, which has the address of the store of pool #{inspect(pool)}; " <>
       "set it to false for no store"}
  end

  defp address(pool, {:wrong, name}) do
    {:error,
     "expected run, false, or #{@address} in the environment variable #{name}, which has the address of the store of pool " <>
       inspect(pool)}
  end

  defp address(_pool, address), do: {:ok, address}
end
