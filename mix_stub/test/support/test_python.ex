defmodule DSPex.TestPython do
  @moduledoc """
  Helps tests with real Python processes.
  """

  alias DSPex.Python.Port.{Connection, PendingCalls}

  @doc """
  Returns the interpreter of the test configuration.
  """
  def interpreter do
    Application.fetch_env!(:dspex, DSPex.Python)[:pools][:general][:python]
  end

  @doc """
  Returns the interpreter, and the other Python 3.10 to 3.14 that are found on this machine.
  """
  def interpreters do
    others =
      for minor <- 10..14,
          name = "python3.#{minor}",
          places = Path.wildcard(Path.expand("~/.pyenv/versions/*/bin/#{name}")),
          path <- Enum.take([System.find_executable(name) | places], 2),
          path != nil and not String.contains?(path, "/shims/"),
          do: path

    [interpreter() | Enum.uniq(others)]
  end

  @doc """
  Starts a pool that ends with the test, and returns its name. It ends at once: nobody waits for the calls of a test that
  is over.
  """
  def start_pool!(options \\ []) do
    name =
      Keyword.get_lazy(options, :name, fn -> :"pool_#{System.unique_integer([:positive])}" end)

    ExUnit.Callbacks.start_supervised!(
      {
        DSPex.Python.Pool,
        [python: interpreter(), model: :embedded, stop_timeout: 0]
        |> Keyword.merge(options)
        |> Keyword.put(:name, name)
      },
      id: name
    )

    name
  end

  @doc """
  Returns the process that owns the pool's port. Waits while one owner replaces another.
  """
  def client(pool) do
    find = fn -> List.first(Registry.lookup(DSPex.Python.Registry, {:slot, {pool, 1}})) end
    {client, _state} = eventually(find)
    client
  end

  @doc """
  Counts the owners of the pool's ports: one for each Python, ready or not.
  """
  def owners(pool) do
    [{workers, _needed}] = Registry.lookup(DSPex.Python.Registry, {:workers, pool})
    workers |> Supervisor.which_children() |> length()
  end

  @doc """
  Counts the pending calls of the pool, without those of the start of its Python; `nil` if the owner of its port ends meanwhile.
  """
  def waiting(pool) do
    PendingCalls.count_of_callers(:sys.get_state(client(pool)).pending_calls)
  catch
    :exit, _ended -> nil
  end

  @doc """
  Counts the pending calls of the pool that are sent: a caller adds its call first, then writes it, where it may have to
  wait for the port, then waits for its answer.
  """
  def sent(pool) do
    callers = PendingCalls.callers(:sys.get_state(client(pool)).pending_calls)

    Enum.count(callers, fn {_id, pid} ->
      Process.info(pid, [:status, :current_function]) in [
        [status: :waiting, current_function: {Connection, :send_and_wait, 4}],
        [status: :waiting, current_function: {Connection, :wait, 5}]
      ]
    end)
  catch
    :exit, _ended -> nil
  end

  @doc """
  Returns the operating system's process id of the pool's Python.
  """
  def os_pid(pool) do
    {:os_pid, os_pid} = Port.info(:sys.get_state(client(pool)).port, :os_pid)
    os_pid
  end

  @doc """
  Returns the processes that the template process of a pool has forked and that are alive.
  """
  def workers(pool) do
    with %{template: template} <- processes(pool) do
      {:ok, children} = File.read("/proc/#{template}/task/#{template}/children")
      for child <- String.split(children), alive?(child), do: String.to_integer(child)
    else
      nil -> []
    end
  end

  @doc """
  Returns the process ids of a pool's template process, launcher and worker; `nil` without a template process.
  """
  def processes(pool) do
    with [{template, _socket}] <- Registry.lookup(DSPex.Python.Registry, {:template, pool}),
         port when port != nil <- :sys.get_state(template).port,
         {:os_pid, template} <- Port.info(port, :os_pid) do
      {:ok, children} = File.read("/proc/#{template}/task/#{template}/children")
      worker = children |> String.split() |> Enum.find(&alive?/1)

      %{
        template: template,
        launcher: os_pid(pool),
        worker: worker && String.to_integer(worker)
      }
    else
      _none -> nil
    end
  end

  @doc """
  Sends a signal such as `"KILL"`, `"STOP"` or `"CONT"` to the pool's Python.
  """
  def signal(pool, name), do: signal_process(os_pid(pool), name)

  @doc """
  Reads a stream, kills the pool's Python at the first chunk of text, and returns the elements. Further chunks may have come
  by then.
  """
  def kill_at_first_chunk(pool, stream) do
    {elements, true} =
      Enum.map_reduce(stream, false, fn element, killed? ->
        kill? = not killed? and match?({:chunk, _field, _text}, element)
        if kill?, do: signal(pool, "KILL")
        {element, killed? or kill?}
      end)

    elements
  end

  @doc """
  Sends a signal to a process of the operating system; one that stops it has stopped all its threads then.
  """
  def signal_process(os_pid, name) do
    # The shell's own command: there may be no program `kill`.
    {"", 0} = System.cmd("/bin/sh", ["-c", "kill -#{name} #{os_pid}"])

    # One thread, which may have to wait for a core, takes the signal and stops the others, which go on until then.
    if name == "STOP", do: eventually(fn -> not runs?(os_pid) end)
    :ok
  end

  # Also a process that has ended does not run; where there is no `/proc`, nothing is known.
  defp runs?(os_pid) do
    case File.ls("/proc/#{os_pid}/task") do
      {:ok, threads} ->
        Enum.any?(threads, &(state("/proc/#{os_pid}/task/#{&1}/stat") in ~w(R S D)))

      {:error, _reason} ->
        false
    end
  end

  @doc """
  Tells whether a process of the operating system is alive; a zombie is not.
  """
  def alive?(os_pid) do
    if File.exists?("/proc/self/stat"),
      do: alive_in_proc?(os_pid),
      else: match?({<<state, _rest::binary>>, 0} when state != ?Z, ps(os_pid))
  end

  defp alive_in_proc?(os_pid), do: state("/proc/#{os_pid}/stat") not in [nil, "Z"]

  defp state(file) do
    case File.read(file) do
      # The name in parentheses may hold any character.
      {:ok, stat} -> stat |> String.split(")") |> List.last() |> String.slice(1, 1)
      {:error, _reason} -> nil
    end
  end

  defp ps(os_pid), do: System.cmd("ps", ["-o", "stat=", "-p", to_string(os_pid)])

  @doc """
  Waits until `condition` returns a truthy value, and returns that value. For events that send no message.
  """
  def eventually(condition, attempts \\ 3_000) do
    cond do
      value = condition.() ->
        value

      attempts == 0 ->
        ExUnit.Assertions.flunk("waited in vain")

      true ->
        Process.sleep(10)
        eventually(condition, attempts - 1)
    end
  end

  @doc """
  Makes a call that must have come to some point when its deadline passes, and returns its result and its timeout. Makes
  it again with twice the time as long as `in_time?` says of the result that the call had not come so far, as on a busy
  machine.
  """
  def at_deadline(timeout, call, in_time?) do
    result = call.(timeout)

    cond do
      in_time?.(result) -> {result, timeout}
      timeout > 60_000 -> ExUnit.Assertions.flunk("too late in #{timeout} ms: #{inspect(result)}")
      true -> at_deadline(2 * timeout, call, in_time?)
    end
  end

  @doc """
  Returns the ids of the functions that Python may call on behalf of a process: other tests run at the same time.
  """
  def registered_by(caller) do
    for {id, {_registration, callback, _invoked?}} <-
          :sys.get_state(DSPex.Python.Functions.CallbackRegistry).callbacks,
        caller in callback.context.callers,
        do: id
  end

  @doc """
  Tells whether the result is Python's, or each one of a batch. At a deadline Elixir's own clock makes the error if Python is
  45 ms late.
  """
  def python_answered?({:error, %DSPex.Python.Error{kind: :timeout, stage: "python"}}), do: false

  def python_answered?({:ok, results}) when is_list(results),
    do: Enum.all?(results, &python_answered?/1)

  def python_answered?(_result), do: true

  @doc """
  Takes a message of that beginning, such as `{:asked, pid}`, out of the mailbox, if there is one.
  """
  def take_message(tag) do
    receive do
      message when elem(message, 0) == tag -> message
    after
      0 -> nil
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
  def script!(folder, text, name \\ "python") do
    path = Path.join(folder, name)
    File.write!(path, text)
    File.chmod!(path, 0o755)
    path
  end
end
