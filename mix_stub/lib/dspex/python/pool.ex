defmodule DSPex.Python.Pool do
  @moduledoc """
  A named Python process with its language model, supervised.

  Pools are started by the application from its configuration:

      config :dspex, DSPex.Python,
        pools: [
          general: [
            python: "/srv/app/.venv/bin/python",
            model: {:openai, model: "gpt-4o-mini", api_key: {:system, "OPENAI_API_KEY"}}
          ]
        ]

  or by `DSPex.Python.start_pool/2`, or under a supervisor of your own (the tests do this with `start_supervised!/1`):

      children = [{DSPex.Python.Pool, name: :reports, python: "python3", model: :embedded}]

  ## Options

    * `:name` - the pool's name, an atom. Required here; in the configuration it is the key
    * `:python` - the interpreter, a path or the name of a command in `PATH`; `"python3"` by default. The package
      `erlport_bridge` must be installed for it
    * `:model` - the language model of calls that name no other:
        * `:embedded` - answers from the text it is given; needs no network and no key
        * `{provider, options}` - such as `{:openai, model: "gpt-4o-mini", api_key: {:system, "OPENAI_API_KEY"}}`. An
          option `{:system, variable}` is read from the environment when Python starts, so that no key stands in the
          configuration
        * `{:elixir, function}` - a function of this node, see `DSPex.Python.ModelFunction`
        * `nil` (the default) - none: the pool starts, calls that need a model are answered with an error that says so
    * `:python_path` - folders that are put before `PYTHONPATH`, a list
    * `:modules` - your own subclasses of `dspy.Module`, such as `["my_app.programs.Support"]`, which calls may name then; see
      `docs/operations.md`
    * `:preload` - names of Python modules that are imported at the start, such as one that offers tools
    * `:start_timeout` - how long Python may take to be ready, in ms; 60,000 by default
    * `:heartbeat` - how a Python that is alive and silent is noticed, such as one that was stopped, or C code that keeps
      Python's lock: `[interval: 5_000, limit: 30_000]` asks every 5 s, and kills a Python from which nothing has come
      for 30 s. These are the defaults. `false` never asks
    * `:max_stuck` - how many threads of Python may be stuck, 32 by default; see below
    * `:drain_timeout` - how long calls in flight may still take in a Python that is replaced, in ms; 30,000 by default

  ## What happens when Python ends

  A Python that ends after it has been ready is started again at once; its sessions and programs are gone with it. Its
  calls in flight are answered with an error of kind `:port_closed`, which is `retryable`; calls made while it is being
  started wait for it.
  A Python that cannot be started is tried again after 1 s, 2 s, 4 s and so on up to every 30 s. In the meantime each
  call is answered at once with an error that names the cause and the remedy.

  ## What happens when threads of Python are stuck

  At its deadline, or when it is cancelled, Python code that runs in a thread (a tool, a module that runs code) is
  interrupted. A function in C that blocks, such as a socket without a time limit, keeps its thread all the same. Such a
  stuck thread is logged with its function and `request_id`, counted in `DSPex.Python.metrics/1`, and has a replacement.
  When more than `:max_stuck` are stuck the pool starts another Python, and changes over when that is ready: no call
  fails or waits for it, but for those that take longer than `:drain_timeout`, which are answered with an error of kind
  `:port_closed`. The model that was configured last goes along; sessions and programs are gone.

  ## What Python logs and prints

  goes to `Logger`, with the metadata `:pool`, `:python_logger` (the name of the logger; `"stdout"` or `"stderr"` for
  what was printed, `"py.warnings"` for warnings) and, where it is known, `:request_id`. Python decides what it logs at
  all: of loggers that nobody has configured these are warnings and errors. What C code and child processes write goes
  to standard error. If more is logged than can be written, entries are dropped, and their number is logged.

  ## When not to use more than one

  One pool serves many calls at the same time. A second one costs 60 MB and a start of DSPy (about a second); it is
  worth it for another interpreter, other Python packages, or to keep one application's crash from another's.
  """

  use Supervisor, restart: :permanent

  alias DSPex.Python.Callbacks.Callback

  alias DSPex.Python.{
    Callbacks,
    Error,
    Interpreter,
    Line,
    Log,
    Model,
    PoolOptions,
    PortClient,
    Recycling
  }

  @registry DSPex.Python.Registry
  # How long a caller sleeps between two looks for a client that is being restarted. A restart of the client itself
  # (not of Python) takes well under a millisecond.
  @restart_poll_ms 2

  @doc false
  def child_spec(options) do
    # Checked here, in the process of the caller, so that a mistake is an ArgumentError where it was made. From here
    # on the model is in a closure: no supervisor report can print its key.
    options = PoolOptions.new!(options)

    %{
      id: {__MODULE__, options.name},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc """
  Starts a pool linked to the calling process. Options as above; an unknown one raises `ArgumentError`.
  """
  @spec start_link(keyword() | PoolOptions.t()) :: Supervisor.on_start()
  def start_link(%PoolOptions{} = options) do
    Supervisor.start_link(__MODULE__, options, name: via({:pool, options.name}))
  end

  def start_link(options) when is_list(options), do: options |> PoolOptions.new!() |> start_link()

  @impl true
  def init(options) do
    log = %{id: Log, start: {Log, :start_link, [{options.name, @registry}]}}

    client = %{
      id: PortClient,
      start: {PortClient, :start_link, [options, @registry, {:port, options.name}, PortClient]}
    }

    # A restart only follows a start of Python that worked, which takes some tenths of a second. So not even a Python
    # that ends at every call reaches this limit, and the pool never goes away under its callers.
    Supervisor.init([log, client], strategy: :one_for_one, max_restarts: 100, max_seconds: 10)
  end

  @doc """
  Calls an operation in the pool's Python; the answer is the operation's own, undecorated.

  Waits for a Python that is being started or restarted, within `timeout`.
  """
  @spec call(atom(), atom(), [term()], timeout()) :: {:ok, term()} | {:error, Error.t()}
  def call(pool, operation, args, timeout) do
    call_until(pool, operation, args, timeout, deadline(timeout))
  end

  @doc """
  Tells what is known of the pool's language model: `:none`, `:configured`, or why it could not be configured.
  """
  @spec model_state(atom()) ::
          {:ok, :none | :configured | {:failed, Error.t()}} | {:error, Error.t()}
  def model_state(pool) do
    case {lookup({:pool, pool}), lookup({:port, pool})} do
      {nil, _client} ->
        {:error, not_found(pool)}

      {_supervisor, {_client, state}} when state != nil ->
        {:ok, state}

      _restarting ->
        Process.sleep(@restart_poll_ms)
        model_state(pool)
    end
  end

  @doc false
  # Does `configure`, after which the pool has this model, or its session `session_id`. Python may call `callbacks` until
  # there is another model there, or another Python.
  @spec configure_model(atom(), String.t() | nil, Model.t(), [Callback.t()], (... -> answer)) ::
          answer
        when answer: {:ok, term()} | {:error, Error.t()}
  def configure_model(pool, session_id, model, callbacks, configure) do
    # Waits for a Python that is being restarted: functions belong to the owner of its port.
    with {:ok, _state} <- model_state(pool),
         {client, _state} <- lookup({:port, pool}) do
      registration = if callbacks != [], do: Callbacks.register(callbacks, client)

      case configure.() do
        {:ok, _configured} = ok ->
          PortClient.model_configured(client, session_id, model, {registration, callbacks})
          ok

        error ->
          Callbacks.unregister(registration)
          error
      end
    else
      nil -> configure_model(pool, session_id, model, callbacks, configure)
      error -> error
    end
  end

  @doc false
  # The session is closed, and the functions of its model can be called no more.
  @spec forget_model(atom(), String.t()) :: :ok
  def forget_model(pool, session_id) do
    with {client, _state} <- lookup({:port, pool}),
         do: PortClient.model_configured(client, session_id, nil, {nil, []})

    :ok
  end

  @doc false
  # Called before the BEAM halts, which it could not with a port that cannot be written to.
  @spec kill_deaf() :: :ok
  def kill_deaf do
    for pool <- names(), line = Line.of(pool), do: Interpreter.kill_if_deaf(line.port)
    :ok
  end

  @doc false
  @spec model_missing_message(atom()) :: String.t()
  def model_missing_message(pool) do
    "pool #{inspect(pool)} has no language model; write config :dspex, DSPex.Python, " <>
      "pools: [#{key(pool)}: [model: #{Model.example()}]] or call DSPex.Python.configure_lm"
  end

  defp call_until(pool, operation, args, timeout, deadline) do
    with %Line{} = line <- Line.of(pool),
         answer when answer != :restarting <-
           Line.call(line, operation, args, timeout, deadline) do
      if operation in [:stream_ack, :cancel] and line.predecessors != [] do
        # About a call that may run in a Python that is being replaced.
        again = &Line.call(&1, operation, args, timeout, deadline)
        Recycling.call_predecessors(answer, line, again)
      else
        answer
      end
    else
      _restarting -> wait_for_restart(pool, operation, args, timeout, deadline)
    end
  end

  defp wait_for_restart(pool, operation, args, timeout, deadline) do
    cond do
      lookup({:pool, pool}) == nil ->
        {:error, not_found(pool)}

      deadline == :infinity or System.monotonic_time(:millisecond) < deadline ->
        Process.sleep(@restart_poll_ms)
        call_until(pool, operation, args, timeout, deadline)

      true ->
        {:error, Error.timeout(timeout, "start", "pool #{inspect(pool)} is being restarted")}
    end
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  defp not_found(pool) do
    Error.new(
      :pool_not_found,
      "there is no pool #{inspect(pool)}; write config :dspex, DSPex.Python, " <>
        "pools: [#{key(pool)}: [python: \"/path/to/python\", model: :embedded]]#{running()}"
    )
  end

  defp running do
    case Enum.map_join(names(), ", ", &inspect/1) do
      "" -> ""
      names -> " or use one of: #{names}"
    end
  rescue
    # The registry is not there: the application :dspex has not been started.
    ArgumentError -> " and start the application :dspex"
  end

  defp names, do: Registry.select(@registry, [{{{:pool, :"$1"}, :_, :_}, [], [:"$1"]}])

  # A keyword list writes the atom :general as general:.
  defp key(pool) when is_atom(pool), do: pool |> inspect() |> String.trim_leading(":")
  defp key(pool), do: inspect(pool)

  defp lookup(key) do
    case Registry.lookup(@registry, key) do
      [{pid, value}] -> {pid, value}
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  defp via(key), do: {:via, Registry, {@registry, key}}
end
