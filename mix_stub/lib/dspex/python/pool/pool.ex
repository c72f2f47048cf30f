defmodule DSPex.Python.Pool do
  @moduledoc """
  Supervises a named Python process with its language model.

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
    * `:model` - the language model of calls that name no other model:
        * `:embedded` - answers from the text of its inputs; needs no network and no key
        * `{provider, options}` - such as `{:openai, model: "gpt-4o-mini", api_key: {:system, "OPENAI_API_KEY"}}`. An
          option `{:system, variable}` is read from the environment when Python starts, so that the configuration holds
          no key. An `:api_key` that is a function without arguments, or `{module, function, args}`, is called before each
          request, so that keys can rotate: `api_key: {MyApp.Vault, :key, ["openai"]}`
        * `{:elixir, function}` - a function of this node, see `DSPex.Python.ModelFunction`
        * `nil` (the default) - no model: the pool starts, and calls that need a model return an error
    * `:python_path` - a list of folders that are put before `PYTHONPATH`
    * `:modules` - your own subclasses of `dspy.Module`, such as `["my_app.programs.Support"]`, so that calls may name them;
      see `docs/operations.md`
    * `:preload` - names of Python modules that are imported at the start, such as a module that offers tools
    * `:strict` - whether an option of a call that means nothing to it is an error; `false` by default: then only a misspelt one is an
      error, and another is named in `prediction.warnings`. A call may say otherwise with its own `:strict`
    * `:start_timeout` - how long Python may take to be ready, in ms; 60,000 by default
    * `:heartbeat` - how to notice a Python that is alive and silent, such as a stopped process, or C code that holds the
      GIL: `[interval: 5_000, limit: 30_000]`, the default, sends a ping every 5 s, and kills a Python that has not answered
      for 30 s. `false` sends no pings
    * `:max_stuck` - how many threads of Python may be stuck, 32 by default; see below
    * `:drain_timeout` - how long pending calls may still take in a Python that is replaced, in ms; 30,000 by default

  ## What happens when Python ends

  A Python that ends after it has been ready is started again at once, with the model that was configured last, in the options or
  by `DSPex.Python.configure_lm/3`. Its sessions and programs are lost, and with a session its model. Its pending
  calls return an error of kind `:port_closed`, which is `retryable`. Calls that are made while Python is being started
  wait for it.

  If Python cannot be started, the pool tries again after 1 s, 2 s, 4 s and so on, up to every 30 s. In the meantime each
  call returns at once with an error that names the cause and the remedy.

  ## What happens when threads of Python are stuck

  At its deadline, or when it is cancelled, Python code that runs in a thread (a tool, a module that runs code) is
  interrupted. A function in C that blocks, such as a socket without a timeout, keeps its thread nevertheless. Such a
  stuck thread is logged with its function and `request_id`, counted in `DSPex.Python.metrics/1`, and replaced by another
  thread.

  When more than `:max_stuck` threads are stuck, the pool starts another Python, and uses it as soon as it is ready. No
  call fails or waits because of that, except calls that take longer than `:drain_timeout`: they return an error of kind
  `:port_closed`. The new Python has the model that was configured last; sessions and programs are lost.

  ## What Python logs and prints

  Python's log entries and printed lines go to `Logger`, with the metadata `:pool`, `:python_logger` (the name of the
  logger; `"stdout"` or `"stderr"` for printed lines, `"py.warnings"` for warnings) and, if known, `:request_id`. Python
  decides what it logs; a logger without a configuration logs warnings and errors. C code and child processes write to
  standard error. If Python logs more than can be written, entries are dropped, and their number is logged.

  ## When not to use more than one

  One pool serves many calls at the same time. A second pool costs 60 MB and a start of DSPy (about a second). It is worth
  that for another interpreter, for other Python packages, or to isolate crashes.
  """

  use Supervisor, restart: :permanent

  alias DSPex.Python.{Callbacks, Error, ModelFunction}
  alias DSPex.Python.Functions.{Callback, Model}

  alias DSPex.Python.Port.{
    ConfiguredModel,
    Connection,
    Interpreter,
    Log,
    Names,
    Owner,
    PoolOptions,
    Recycling
  }

  alias DSPex.Python.Wire.Timeout

  # How long a caller sleeps before it looks again for an owner that is being restarted. A restart of the owner (not of
  # Python) takes well under a millisecond.
  @restart_poll_ms 2

  @doc false
  def child_spec(options) do
    # Checked in the calling process, so that a mistake raises where it was made. The checked options hold the model in a
    # closure, so no supervisor report can print its key.
    options = PoolOptions.new!(options)

    %{
      id: {__MODULE__, options.name},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc """
  Starts a pool linked to the calling process. Options as above; an unknown option raises `ArgumentError`.
  """
  @spec start_link(keyword() | PoolOptions.t()) :: Supervisor.on_start()
  def start_link(%PoolOptions{} = options),
    do:
      Supervisor.start_link(__MODULE__, options,
        name: Names.via(:pool, options.name, %{strict: options.strict})
      )

  def start_link(options) when is_list(options), do: options |> PoolOptions.new!() |> start_link()

  @impl true
  def init(options) do
    log = %{id: Log, start: {Log, :start_link, [options.name]}}
    model = %{id: ConfiguredModel, start: {ConfiguredModel, :start_link, [options]}}
    owner = options |> ConfiguredModel.in_options() |> Owner.child_spec(caller(options.name))

    # A restart only follows a start of Python that worked, which takes some tenths of a second. So not even a Python
    # that ends at every call reaches this limit, and the pool never disappears while it is in use.
    Supervisor.init([log, model, owner],
      strategy: :one_for_one,
      max_restarts: 100,
      max_seconds: 10
    )
  end

  @doc """
  Calls an operation in the pool's Python; returns the operation's own answer, undecorated.

  Waits for a Python that is being started or restarted, within `timeout`.
  """
  @spec call(atom(), atom(), [term()], timeout()) :: {:ok, term()} | {:error, Error.t()}
  def call(pool, operation, args, timeout),
    do: call_until(pool, operation, args, timeout, Timeout.deadline(timeout))

  @doc false
  # Returns `call/4` for one pool, as model functions take it.
  @spec caller(atom()) :: ModelFunction.pool_call()
  def caller(pool), do: &call(pool, &1, &2, &3)

  @doc """
  Returns the state of the pool's language model: `:none`, `:configured`, or why it could not be configured.
  """
  @spec model_state(atom()) ::
          {:ok, :none | :configured | {:failed, Error.t()}} | {:error, Error.t()}
  def model_state(pool) do
    case {Names.lookup(:pool, pool), Names.lookup(:port, pool)} do
      {nil, _owner} ->
        {:error, not_found(pool)}

      {_supervisor, {_owner, state}} when state != nil ->
        {:ok, state}

      _restarting ->
        Process.sleep(@restart_poll_ms)
        model_state(pool)
    end
  end

  @doc false
  # Tells whether calls of the pool are strict unless they say otherwise.
  @spec strict?(atom()) :: boolean()
  def strict?(pool), do: match?({_supervisor, %{strict: true}}, Names.lookup(:pool, pool))

  @doc false
  # Runs `configure`, which configures `model` for the pool or for its session `session_id`. Python may call `callbacks`
  # until another model is configured there, or until another Python is started.
  @spec configure_model(atom(), String.t() | nil, Model.t(), [Callback.t()], (... -> answer)) ::
          answer
        when answer: {:ok, term()} | {:error, Error.t()}
  def configure_model(pool, session_id, model, callbacks, configure) do
    # Waits for an owner that is being restarted: the owner of the port owns the functions too.
    with {:ok, _state} <- model_state(pool),
         {owner, _state} <- Names.lookup(:port, pool) do
      registration = if callbacks != [], do: Callbacks.register(callbacks, owner)

      case configure.() do
        {:ok, _configured} = ok ->
          if session_id == nil, do: ConfiguredModel.put(pool, model)
          Owner.model_configured(owner, session_id, {registration, callbacks})
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
  # Ends the registration of the model functions of a session that was closed.
  @spec forget_model(atom(), String.t()) :: :ok
  def forget_model(pool, session_id) do
    with {owner, _state} <- Names.lookup(:port, pool),
         do: Owner.model_configured(owner, session_id, {nil, []})

    :ok
  end

  @doc false
  # Kills every Python that does not read. The BEAM could not halt while a port cannot be written to.
  @spec kill_deaf() :: :ok
  def kill_deaf do
    for pool <- Names.pools(), connection = Connection.of(pool) do
      Interpreter.kill_if_deaf(connection.port)
    end

    :ok
  end

  @doc false
  @spec model_missing_message(atom()) :: String.t()
  def model_missing_message(pool) do
    "pool #{inspect(pool)} has no language model; write config :dspex, DSPex.Python, " <>
      "pools: [#{key(pool)}: [model: #{Model.example()}]] or call DSPex.Python.configure_lm"
  end

  defp call_until(pool, operation, args, timeout, deadline) do
    with %Connection{} = connection <- Connection.of(pool),
         answer when answer != :restarting <-
           Connection.call(connection, operation, args, timeout, deadline) do
      if operation in [:stream_ack, :cancel] and connection.predecessors != [] do
        # The call that it is about may run in a Python that is being replaced.
        again = &Connection.call(&1, operation, args, timeout, deadline)
        Recycling.call_predecessors(answer, connection, again)
      else
        answer
      end
    else
      _restarting -> wait_for_restart(pool, operation, args, timeout, deadline)
    end
  end

  defp wait_for_restart(pool, operation, args, timeout, deadline) do
    cond do
      Names.lookup(:pool, pool) == nil ->
        {:error, not_found(pool)}

      Timeout.over?(deadline) ->
        {:error, Error.timeout(timeout, "start", "pool #{inspect(pool)} is being restarted")}

      true ->
        Process.sleep(@restart_poll_ms)
        call_until(pool, operation, args, timeout, deadline)
    end
  end

  defp not_found(pool) do
    Error.new(
      :pool_not_found,
      "there is no pool #{inspect(pool)}; write config :dspex, DSPex.Python, " <>
        "pools: [#{key(pool)}: [python: \"/path/to/python\", model: :embedded]]#{running()}"
    )
  end

  defp running do
    case Enum.map_join(Names.pools(), ", ", &inspect/1) do
      "" -> ""
      names -> " or use one of: #{names}"
    end
  rescue
    # The registry is not running: the application :dspex has not been started.
    ArgumentError -> " and start the application :dspex"
  end

  # Returns the name as a keyword list writes it, without its colon.
  defp key(pool) when is_atom(pool), do: pool |> inspect() |> String.trim_leading(":")
  defp key(pool), do: inspect(pool)
end
