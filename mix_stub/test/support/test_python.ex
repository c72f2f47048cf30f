defmodule DSPex.TestPython do
  @moduledoc """
  Helps tests with real Python processes.
  """

  @doc """
  Returns the interpreter of the test configuration.
  """
  def interpreter do
    Application.fetch_env!(:dspex, DSPex.Python)[:pools][:general][:python]
  end

  @doc """
  Starts a pool that ends with the test, and returns its name.
  """
  def start_pool!(options \\ []) do
    name =
      Keyword.get_lazy(options, :name, fn -> :"pool_#{System.unique_integer([:positive])}" end)

    ExUnit.Callbacks.start_supervised!(
      {DSPex.Python.Pool,
       [python: interpreter(), model: :embedded]
       |> Keyword.merge(options)
       |> Keyword.put(:name, name)},
      id: name
    )

    name
  end

  @doc """
  Returns the process that owns the pool's port. Waits while one owner replaces another.
  """
  def client(pool) do
    find = fn -> List.first(Registry.lookup(DSPex.Python.Registry, {:port, pool})) end
    {client, _state} = eventually(find)
    client
  end

  @doc """
  Counts the pending calls of the pool.
  """
  def waiting(pool),
    do: DSPex.Python.Port.PendingCalls.count(:sys.get_state(client(pool)).pending_calls)

  @doc """
  Returns the operating system's process id of the pool's Python.
  """
  def os_pid(pool) do
    {:os_pid, os_pid} = Port.info(:sys.get_state(client(pool)).port, :os_pid)
    os_pid
  end

  @doc """
  Sends a signal such as `"KILL"`, `"STOP"` or `"CONT"` to the pool's Python.
  """
  def signal(pool, name) do
    {"", 0} = System.cmd("kill", ["-#{name}", to_string(os_pid(pool))])
    :ok
  end

  @doc """
  Tells whether a process of the operating system is alive; a zombie is not.
  """
  def alive?(os_pid) do
    case System.cmd("ps", ["-o", "stat=", "-p", to_string(os_pid)]) do
      {state, 0} -> not String.starts_with?(state, "Z")
      {_nothing, _status} -> false
    end
  end

  @doc """
  Waits until `condition` returns a truthy value, and returns that value. For events that send no message.
  """
  def eventually(condition, attempts \\ 3_000) do
    cond do
      value = condition.() -> value
      attempts == 0 -> ExUnit.Assertions.flunk("waited in vain")
      true -> Process.sleep(10) && eventually(condition, attempts - 1)
    end
  end

  @doc """
  Runs `work`; returns its result and its duration in ms.
  """
  def timed(work) do
    {microseconds, result} = :timer.tc(work)
    {result, microseconds / 1_000}
  end

  @doc """
  Writes an executable file, for a test that needs an interpreter that does not work.
  """
  def script!(folder, text) do
    path = Path.join(folder, "python")
    File.write!(path, text)
    File.chmod!(path, 0o755)
    path
  end
end
