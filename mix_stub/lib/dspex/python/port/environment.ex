defmodule DSPex.Python.Port.Environment do
  @moduledoc false

  # The variables of the environment that a pool's Python has beside those of the BEAM: the options `:env` and `:python_path`.
  # The values may be keys, so no message shows one, and the options hold them in a function (see PoolOptions).

  @type variables :: %{String.t() => String.t() | nil}

  @doc """
  Reads the option `:env`: a map or a list of pairs of a name and its text; `nil` unsets a variable.
  """
  @spec read(term()) :: {:ok, variables()} | {:error, String.t()}
  def read(given) when is_map(given) and not is_struct(given),
    do: given |> Map.to_list() |> read()

  def read(given) when is_list(given) do
    if not List.improper?(given) and Enum.all?(given, &match?({_name, _value}, &1)),
      do: read(given, %{}),
      else: read(:no_pairs)
  end

  def read(_other), do: {:error, "expected a map or a list of names and texts"}

  defp read([], read), do: {:ok, read}

  defp read([{name, value} | rest], read) do
    cond do
      not name?(name) ->
        {:error, "expected names of variables, without = and zero bytes, got #{inspect(name)}"}

      is_map_key(read, to_string(name)) ->
        {:error, "expected the variable #{name} once"}

      # Erlang unsets a variable whose text is empty.
      value == "" ->
        {:error,
         "expected a text that is not empty, or nil, as the value of the variable #{name}"}

      value != nil and not text?(value) ->
        {:error, "expected text without zero bytes, or nil, as the value of the variable #{name}"}

      true ->
        read(rest, Map.put(read, to_string(name), value))
    end
  end

  defp name?(name) when is_atom(name),
    do: name not in [nil, true, false] and name?(to_string(name))

  defp name?(name), do: variable?(name)

  @doc """
  Tells whether a value can be the name of a variable.
  """
  @spec variable?(term()) :: boolean()
  def variable?(name), do: name != "" and text?(name) and not String.contains?(name, "=")

  @doc """
  Tells whether a value is text that a program can be given: in a variable, as an argument, as a path.
  """
  @spec text?(term()) :: boolean()
  def text?(value),
    do: is_binary(value) and String.valid?(value) and not String.contains?(value, <<0>>)

  @doc """
  Returns the variables with those by which Python finds its modules: the folders of `:python_path` first, then those of
  `PYTHONPATH`, and nothing from the current folder.
  """
  @spec with_python_path(variables(), [String.t()]) :: variables()
  def with_python_path(variables, folders) do
    inherited = Map.get_lazy(variables, "PYTHONPATH", fn -> System.get_env("PYTHONPATH") end)
    # An empty entry means the current folder.
    inherited = String.split(inherited || "", ":", trim: true)
    folders = Enum.map(folders, &Path.expand/1) ++ Enum.map(inherited, &Path.absname/1)
    python_path = if folders != [], do: Enum.join(folders, ":")
    Map.merge(variables, %{"PYTHONSAFEPATH" => "1", "PYTHONPATH" => python_path})
  end
end
