defmodule DSPex.Python.Pool.PoolSupervisor do
  @moduledoc false

  # Supervises the pools of the configuration and the pools that DSPex.Python.start_pool/2 adds.

  use Supervisor

  alias DSPex.Python.{Error, Pool}
  alias DSPex.Python.Functions.ModelOptions
  alias DSPex.Python.Pool.{Messages, Stopping}
  alias DSPex.Python.Port.{Diagnosis, Interpreter, Names}
  alias DSPex.Python.Wire.Keywords

  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(pools), do: Supervisor.start_link(__MODULE__, pools, name: __MODULE__)

  @doc """
  Starts a pool; `{:error, {:already_started, pid}}` if there is a pool of that name, `{:error, :not_started}` if the
  application `:dspex` has not been started, `:missing_dependency` if there is no executable file where the interpreter should be,
  `:provider` if there is no such provider of models, `:input` if an option of the model is wrong.
  """
  @spec start_pool(atom(), keyword()) :: {:ok, pid()} | {:error, term()}
  def start_pool(name, options) do
    %{start: {Pool, :start_link, [read]}} = child_spec = child_spec_of_pool(name, options)

    unless_stopped({:error, :not_started}, fn ->
      with :ok <- found(read),
           {:error, :already_present} <- Supervisor.start_child(__MODULE__, child_spec) do
        # It has just been stopped, and its stop has not removed it yet.
        Supervisor.delete_child(__MODULE__, {Pool, name})
        Supervisor.start_child(__MODULE__, child_spec)
      end
    end)
  end

  # What else may be wrong with a Python or a model takes its start to find out, and is told by the first call. A pool of the
  # configuration starts without its interpreter too, and tries again, since the application is more than this pool.
  defp found(%{name: pool} = options) do
    with {:ok, _path} <- Interpreter.find(options),
         :ok <- ModelOptions.check(options.model.()) do
      :ok
    else
      {:not_found, path} ->
        {:error, Diagnosis.not_found(path, options)}

      {:error, %Error{message: message} = error} ->
        path = Enum.join(["model" | List.wrap(error.path)], ".")

        {:error,
         %{
           error
           | message: "#{message} (the option :model of pool #{inspect(pool)})",
             path: path,
             details: Map.put(error.details, "path", path)
         }}
    end
  end

  @doc """
  Stops a pool that the configuration or `start_pool/2` started; `:pool_not_found` if there is none. The stop goes on when the calling process ends, and all that ask
  for it meanwhile wait for the same.
  """
  @spec stop_pool(atom()) :: :ok | {:error, Error.t()}
  def stop_pool(name) do
    unless_stopped(not_found(name), fn ->
      if List.keymember?(Supervisor.which_children(__MODULE__), {Pool, name}, 0),
        do: stopped(name),
        else: not_found(name)
    end)
  end

  # A caller may be killed, and a tool that stops its own pool ends with it. A pool whose stop has begun takes no calls any more.
  defp stopped(name) do
    {stopper, monitor} = spawn_monitor(fn -> exit({:shutdown, stop(name)}) end)

    receive do
      {:DOWN, ^monitor, :process, ^stopper, {:shutdown, {:with, first}}} -> await(first)
      {:DOWN, ^monitor, :process, ^stopper, {:shutdown, result}} -> result
      {:DOWN, ^monitor, :process, ^stopper, reason} -> exit(reason)
    end
  end

  defp await(stopper) do
    monitor = Process.monitor(stopper)

    receive do
      {:DOWN, ^monitor, :process, ^stopper, {:shutdown, result}} -> result
      # It has just ended.
      {:DOWN, ^monitor, :process, ^stopper, :noproc} -> :ok
      {:DOWN, ^monitor, :process, ^stopper, reason} -> exit(reason)
    end
  end

  defp stop(name) do
    unless_stopped(not_found(name), fn ->
      if Names.register(:stop, name) do
        # Before, because the supervisor starts and stops no other pool until this one has ended.
        Stopping.drain(name)

        with :ok <- Supervisor.terminate_child(__MODULE__, {Pool, name}),
             :ok <- Supervisor.delete_child(__MODULE__, {Pool, name}) do
          :ok
        else
          {:error, _gone} -> not_found(name)
        end
      else
        with {stopper, _value} <- Names.lookup(:stop, name),
             do: {:with, stopper},
             else: (nil -> :ok)
      end
    end)
  end

  @impl true
  def init(pools) do
    with message when message != nil <-
           Keywords.repeated(pools, "config :dspex, DSPex.Python, :pools"),
         do: raise(ArgumentError, message)

    children = for {name, options} <- pools, do: child_spec_of_pool(name, options)

    # A pool ends only by a repeated fault in its own code; the other pools and the application continue.
    Supervisor.init(children, strategy: :one_for_one, max_restarts: 100, max_seconds: 10)
  end

  defp child_spec_of_pool(name, options) do
    # The pool refuses options that are not a keyword list.
    options = if Keyword.keyword?(options), do: named(name, options), else: options
    Pool.child_spec(options)
  end

  defp named(name, options) do
    with {:ok, other} when other != name <- Keyword.fetch(options, :name) do
      raise ArgumentError,
            "expected the option :name of pool #{inspect(name)} to be left out, got #{inspect(other)}"
    end

    Keyword.put(options, :name, name)
  end

  defp not_found(name), do: {:error, Messages.not_running(name)}

  defp unless_stopped(otherwise, work) do
    work.()
  catch
    :exit, {reason, {GenServer, :call, _call}} when reason in [:noproc, :shutdown, :normal] ->
      otherwise
  end
end
