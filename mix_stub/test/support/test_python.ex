defmodule DSPex.TestPython do
  @moduledoc """
  What tests need of real Python processes.
  """

  @doc """
  The interpreter of the test configuration.
  """
  def interpreter do
    Application.fetch_env!(:dspex, DSPex.Python)[:pools][:general][:python]
  end

  @doc """
  Starts a pool that ends with the test, and gives its name.
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
  The process that owns the pool's port. There is none for a moment while one takes the place of another.
  """
  def client(pool) do
    find = fn -> List.first(Registry.lookup(DSPex.Python.Registry, {:port, pool})) end
    {client, _state} = eventually(find)
    client
  end

  @doc """
  How many calls of the pool wait for an answer.
  """
  def waiting(pool),
    do: DSPex.Python.Port.PendingCalls.count(:sys.get_state(client(pool)).pending_calls)

  @doc """
  The operating system's process id of the pool's Python, once it is there.
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
  Tells whether a process of the operating system is still there; one that only waits to be buried is not.
  """
  def alive?(os_pid) do
    case System.cmd("ps", ["-o", "stat=", "-p", to_string(os_pid)]) do
      {state, 0} -> not String.starts_with?(state, "Z")
      {_nothing, _status} -> false
    end
  end

  @doc """
  Waits until `condition` gives a truthy value, and gives that value. For what sends no message.
  """
  def eventually(condition, attempts \\ 3_000) do
    cond do
      value = condition.() -> value
      attempts == 0 -> ExUnit.Assertions.flunk("waited in vain")
      true -> Process.sleep(10) && eventually(condition, attempts - 1)
    end
  end

  @doc """
  Runs `work` and gives its result and its duration in ms.
  """
  def timed(work) do
    {microseconds, result} = :timer.tc(work)
    {result, microseconds / 1_000}
  end

  @doc """
  Writes an executable file for a test that needs an interpreter which does not work.
  """
  def script!(folder, text) do
    path = Path.join(folder, "python")
    File.write!(path, text)
    File.chmod!(path, 0o755)
    path
  end
end
