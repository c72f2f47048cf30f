defmodule DSPex.Python.Interpreter do
  @moduledoc false

  # The Python that a pool names: where it is, how it is started, and why it does not start.

  alias DSPex.Python.{Error, PoolOptions}

  # What Python must be able to do before it is worth starting the runtime; its last line names what is missing.
  @probe """
  import sys
  if sys.version_info < (3, 10):
      sys.exit("python 3.10 or newer is needed, this is " + sys.version.split()[0])
  import erlport_bridge.__main__, dspy_bridge, dspy
  for name in sys.argv[1:]:
      __import__(name)
  """

  @doc """
  Gives the path of the pool's interpreter.
  """
  @spec find(PoolOptions.t()) :: {:ok, String.t()} | {:error, Error.t()}
  def find(%PoolOptions{python: python} = options) do
    # A path is relative to the working directory, a plain name is looked up in PATH.
    name = if String.contains?(python, "/"), do: Path.expand(python), else: python

    case System.find_executable(name) do
      nil ->
        {:error,
         missing(
           "there is no executable python at #{inspect(name)}; set the option :python of pool " <>
             "#{inspect(options.name)} to a python with erlport_bridge installed"
         )}

      path ->
        {:ok, path}
    end
  end

  @doc """
  Gives the settings of `Port.open/2` that start the runtime.
  """
  @spec port_settings(PoolOptions.t()) :: keyword()
  def port_settings(%PoolOptions{} = options) do
    preload =
      if options.preload == [], do: [], else: ["--preload=" <> Enum.join(options.preload, ",")]

    [
      args:
        ~w(-m erlport_bridge --packet=4 --nouse_stdio --modules=dspy_bridge) ++
          ["--elixir-version=" <> System.version()] ++ preload,
      env: for({name, value} <- environment(options), do: {to_charlist(name), to_charlist(value)})
    ]
  end

  @doc """
  Finds out why Python ended with `status` before it was ready. Starts Python once more and waits for it.
  """
  @spec diagnose(String.t(), PoolOptions.t(), term()) :: Error.t()
  def diagnose(path, %PoolOptions{} = options, status) do
    {output, probe_status} =
      System.cmd(path, ["-c", @probe | options.preload],
        stderr_to_stdout: true,
        env: environment(options)
      )

    ended = "python at #{inspect(path)} ended with status #{inspect(status)} before it was ready"

    case output |> String.split("\n", trim: true) |> List.last() do
      cause when probe_status != 0 and is_binary(cause) ->
        missing("#{ended}: #{String.trim(cause)}; #{remedy(path, cause)}")

      _nothing_said ->
        missing("#{ended}; what it said is on standard error")
    end
  end

  defp remedy(path, cause) do
    if cause =~ "python 3.10" do
      "set the option :python of the pool to a newer one"
    else
      "run: #{path} -m pip install erlport_bridge"
    end
  end

  defp missing(message), do: Error.new(:missing_dependency, message)

  defp environment(%PoolOptions{python_path: []}), do: []

  defp environment(%PoolOptions{python_path: folders}) do
    inherited = System.get_env("PYTHONPATH", "")
    folders = Enum.map(folders, &Path.expand/1) ++ if(inherited == "", do: [], else: [inherited])
    [{"PYTHONPATH", Enum.join(folders, ":")}]
  end
end
