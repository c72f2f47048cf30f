defmodule DSPex.Python.Port.Template do
  @moduledoc false

  # Keeps the template process of a pool: a Python that has imported all that a worker needs, and forks workers on demand
  # (erlport_bridge/template/). The socket by which launchers ask it for workers is in a folder of its own, which is there
  # as long as the process.
  #
  # A pool never fails because of its template process. While that is started again, and where it cannot be used, workers
  # are started directly.

  use GenServer

  require Logger

  alias DSPex.Python.Port.{Interpreter, Log, Names, PoolOptions, RunStore}

  require Interpreter

  # The statuses of erlport_bridge/template/process.py.
  @unfit 3
  @stale 4

  @first_retry_ms 1_000
  @last_retry_ms 30_000
  # A process that has worked for so long has not failed to start.
  @worked_ms 60_000

  @enforce_keys [:options]
  defstruct [:options, :port, :folder, :started_at, :logged, failures: 0]

  @doc """
  Returns the specifications of the children that a pool's supervisor needs for a template process.
  """
  @spec children(PoolOptions.t()) :: [Supervisor.child_spec()]
  def children(%PoolOptions{template: template} = options) do
    if template and :os.type() == {:unix, :linux},
      do: [%{id: __MODULE__, start: {__MODULE__, :start_link, [options]}}],
      else: []
  end

  @doc false
  def start_link(%PoolOptions{} = options),
    do: GenServer.start_link(__MODULE__, options, name: Names.via(:template, options.name))

  @doc """
  Returns the socket of the pool's template process; `nil` if there is none.

  The process may still import: a launcher waits for it, which takes no longer than the same imports of its own would.
  """
  @spec socket(atom()) :: Path.t() | nil
  def socket(pool) do
    with {_template, socket} <- Names.lookup(:template, pool), do: socket
  end

  @doc """
  Ends the pool's template process and starts another one, which imports anew. Does nothing if there is none.
  """
  @spec restart(atom()) :: :ok
  def restart(pool) do
    with {template, _socket} <- Names.lookup(:template, pool),
         do: GenServer.call(template, :restart)

    :ok
  catch
    # The pool is being stopped.
    :exit, _reason -> :ok
  end

  @impl true
  def init(options) do
    # The folder is removed at the end.
    Process.flag(:trap_exit, true)
    # Here, so that the first worker waits for this process too.
    {:ok, start(%__MODULE__{options: options})}
  end

  @impl true
  def handle_call(:restart, _from, state) do
    close(state)
    {:reply, :ok, state |> forget() |> start()}
  end

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    Log.take(state.options.name, frame)
    {:noreply, state}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state),
    do: {:noreply, ended(status, state)}

  def handle_info({:EXIT, port, reason}, %{port: port} = state) when is_port(port),
    do: {:noreply, ended(reason, state)}

  def handle_info(:start, %{port: nil} = state) do
    if ready_worker?(state.options.name),
      do: {:noreply, start(state)},
      else: {:noreply, start_after(state, @first_retry_ms)}
  end

  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    close(state)
    forget(state)
  end

  # Without a socket it does not notice yet that its port is closed.
  defp close(%{port: port, folder: folder}) do
    if port == nil or File.exists?(socket_in(folder)),
      do: Interpreter.close(port),
      else: Interpreter.kill(port)
  end

  defp start(%{options: options} = state) do
    state = %{state | started_at: System.monotonic_time(:millisecond)}

    with {:ok, python} <- Interpreter.find(options),
         folder when folder != nil <- RunStore.folder_of_socket(options.name),
         state = %{state | folder: folder},
         {:ok, port} <- Interpreter.open_template(python, options, folder) do
      Names.set_value(:template, options.name, socket_in(folder))
      %{state | port: port}
    else
      # The start of a worker fails for the same reason, and says so.
      _error -> state |> forget() |> start_later()
    end
  end

  defp socket_in(folder), do: Path.join(folder, "socket")

  # Where no worker can start, this process cannot either: it would only write the same to standard error once more.
  defp ready_worker?(pool),
    do: Enum.any?(Names.workers(pool), fn {_, _, worker} -> worker.connection.port != nil end)

  defp ended(@unfit, state), do: forget(state)

  defp ended(status, state) do
    # Where no worker is ready either, theirs is the cause, and they log it.
    if status not in [@stale, state.logged] and
         (Interpreter.killed?(status) or ready_worker?(state.options.name)) do
      Logger.warning(
        "the template process of pool #{inspect(state.options.name)} #{Interpreter.ending(status)}; " <>
          "it is started again, and workers start by themselves until then"
      )

      forget_and_retry(%{state | logged: status})
    else
      forget_and_retry(state)
    end
  end

  defp forget_and_retry(state), do: state |> forget() |> start_later()

  defp forget(state) do
    # Launchers that wait see that there is nothing to wait for.
    if state.folder, do: File.rm_rf(state.folder)
    Names.set_value(:template, state.options.name, nil)
    %{state | port: nil, folder: nil}
  end

  defp start_later(state) do
    worked? = System.monotonic_time(:millisecond) - state.started_at > @worked_ms
    failures = if worked?, do: 0, else: state.failures
    retry_ms = min(@first_retry_ms * Integer.pow(2, min(failures, 10)), @last_retry_ms)
    start_after(%{state | failures: failures + 1}, retry_ms)
  end

  defp start_after(state, ms) do
    Process.send_after(self(), :start, ms)
    state
  end
end
