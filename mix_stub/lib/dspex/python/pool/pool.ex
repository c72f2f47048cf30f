defmodule DSPex.Python.Pool do
  @moduledoc """
  Supervises a named pool of Python processes, its workers, with their language model.

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

    * `:name` - the pool's name, an atom. Required here; in the configuration it is the key, and for `start_pool/2` the first argument
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
    * `:python_path` - a list of folders that are put before `PYTHONPATH`; relative ones begin at the folder in which this
      node was started. Python imports nothing from that folder unless it is one of them (`["."]`)
    * `:env` - variables of Python's environment beside those of the BEAM, a map or a keyword list: `[HF_HOME: "/srv/models",
      HTTP_PROXY: nil]`; `nil` unsets a variable. No log and no `inspect` shows the values
    * `:store` - where sessions, programs and conversations are kept, so that they outlive their Python:
        * `:run` (the default) - a file of this pool that lives as long as this BEAM, private to its user (0600 in a folder of
          0700, in the folder for temporary files), made when the first session is, and removed when the pool stops
          or the BEAM ends; after a power cut, or the end of a container, by a later BEAM. **Text of conversations and
          programs is on the disk meanwhile**
        * `false` - nowhere: they end with their Python, and nothing is on the disk
        * `"sqlite:////srv/app/dspex.db"` - a file that outlives the BEAM too (with three slashes, `"sqlite:///dspex.db"`, the
          path is relative to the folder of the BEAM, or to `:cd`); `"postgresql+psycopg://user:password@host/name"` -
          a database, also for several machines; see "The store" in `docs/operations.md`
        * `{:system, variable}` - what a variable of the environment says when Python starts: an address, `run` or `false`

      All workers of a pool have its store, so a session is also found when another worker takes the place of its own
    * `:session_ttl` - how long a session or a conversation that nobody uses stays in the store, in ms, at least
      1,000; 30 days by default
    * `:programs` - programs that each worker has from its start on, by the names that calls give them:
      `programs: [triage: "priv/triage.json", chat: {:my_app, "priv/chat.json"}]`, then
      `DSPex.Python.execute_program(:triage, inputs)`. The files are what `DSPex.Python.dump_program/2` returned; a path is relative to the folder of the
      BEAM, or to that of an application. A file that is missing or no program is an error at once, as any wrong option. They are read
      again for each Python, so `DSPex.Python.restart_pool/1` takes what has changed
    * `:cd` - the folder in which Python works; by default that of the BEAM, to which `:python` and `:python_path` are relative
      in any case
    * `:modules` - your own subclasses of `dspy.Module`, such as `["my_app.programs.Support"]`, so that calls may name them;
      see `docs/operations.md`
    * `:preload` - names of Python modules that are imported at the start, such as a module that offers tools
    * `:strict` - whether an option of a call that means nothing to it is an error; `false` by default: then only a misspelt one is an
      error, and another is named in `prediction.warnings`. A call may say otherwise with its own `:strict`
    * `:start_timeout` - how long Python may take to be ready, in ms; 60,000 by default
    * `:heartbeat` - how to notice a Python that is alive and silent, such as one in C code that holds the GIL, or a stopped process:
      `[interval: 5_000, limit: 30_000, stopped: 1_000]`, the default, sends a ping every 5 s, and kills a Python that has not answered
      for 30 s, or whose process was stopped by a signal (SIGSTOP) for 1 s, which Linux tells. `stopped: false` leaves stopped processes
      to the pings, for who stops a worker by hand; one that a debugger holds is left to them anyway. `false` does neither
    * `:max_threads` - how many threads run Python's tools and other blocking work, 64 by default
    * `:max_stuck` - how many threads of Python may be stuck, 32 by default, and `:lost_after` - after which time a stuck thread
      is lost, in ms; 30,000 by default; see below
    * `:max_request_bytes` - the largest call, and the largest result of a function, as a term; 256 MiB by default. A larger
      call is an error of kind `:input` before it is sent
    * `:max_answer_bytes` - the largest answer of Python, 256 MiB by default; instead of a larger one comes an error of kind
      `:encode`
    * `:template` - whether workers are forked from a process that has imported DSPy, `modules:` and `preload:` already; `true` by
      default if the pool has several workers or a standby. Such a worker is ready in about a tenth of a second, and shares the memory of what was imported. On Linux
      only; elsewhere, and where a module starts a thread or opens a connection when it is imported, each worker is started
      by itself, with a warning in the second case
    * `:drain_timeout` - how long pending calls may still take in a Python that is replaced, in ms; 30,000 by default
    * `:stop_timeout` - how long calls in flight may still take when the pool is stopped, in ms; 5,000 by default, see "Stopping"
      below. `0` ends them at once
    * `:size` - how many workers the pool has, 1 by default; `:schedulers` for as many as this node has schedulers
    * `:standby` - how many more wait, ready, to take the place of one that dies or is replaced; 1 by default if the pool has
      several workers, otherwise 0
    * `:max_in_flight` - how many calls that may ask a model each worker has at the same time, 1,024 by default; further calls wait
    * `:max_queue` - how many calls of the pool may wait, 4,096 by default; a further one is an error of kind `:overloaded`
    * `:max_memory` - the resident memory of a worker with its sandboxes from which on it is replaced, `{:mb, 800}` or bytes; no limit
      by default
    * `:max_calls` - after how many calls a worker is replaced, and `:max_age` - after which time, in ms; never by default
    * `:budgets` - what each tenant may spend on models: `[tenant: [max_cost: 5.0, max_tokens_total: 1_000_000]]`. The key is one of the map
      `metadata:` of calls (`metadata: %{tenant: "acme"}`), and each of its values has these limits, in all workers together. At the limit
      calls end with kind `:budget`. What was spent is forgotten with the pool, not with a Python, and by `DSPex.Python.reset_budget/3`;
      a call whose metadata has no such key is not limited
    * `:log_metadata` - which metadata of Logger of the calling process Python's log entries have, a list of keys; `[:request_id]` by default.
      More than 4 kB of it are left out
    * `:history` - what each Python keeps of the last 1,000 requests to models, for `DSPex.Python.history/1`: `:metadata` (the default) no
      texts, `:full` messages and replies too (at most 16 million characters), `false` nothing. API keys are redacted always
    * `:redact` - `{module, function}`: what the history (with `:full`), traces (`trace: true`) and the export of spans keep of texts. The function
      takes a map with `"messages"` and `"reply"` of one request, and returns it as it may be kept. A function that there is not is refused
      when the pool is started. It is called before the request returns,
      so that Python never keeps what the function removes; if it fails, no text of that request is kept. Other texts, such as arguments
      of tools, are not kept then, and messages of errors are `[redacted]` in the history, traces, events and
      the log of functions that Python calls. `"reply"` is `nil` if the request failed
    * `:otlp` - a collector of OpenTelemetry to which the Pythons export the spans of all calls, by OTLP over HTTP: its address, such as
      `"http://localhost:4318"`, or `true`: the variables `OTEL_EXPORTER_OTLP_…` say it. `[endpoint: address, content: :full]` exports
      prompts and answers too. `false` by default. Needs `pip install 'erlport_bridge[otel]'`; see "Export by OTLP" in `docs/operations.md`
    * `:retry` - `:safe`: a call whose worker dies is made again, once, if no tool or other function was called for it and no piece of a
      stream was sent. `false` by default; a call may say otherwise with its own `:retry`

  ## Several workers

  A Python has one GIL: it computes on one core, and its end is the end of all its calls and sessions. A pool of several
  workers is called as one:

    * A call goes to the worker with the fewest calls in flight. Calls with a `:session_id`, and calls of stored programs, always
      go to the same worker, which has the session.
    * `DSPex.Python.execute_batch/4` and `DSPex.Python.stream_batch/4` run their items in all workers. Items of a worker that dies are
      run in another one, unless a function was called for them. So do batches and evaluations of stored programs, but not with
      `store: false`, nor if they keep conversations or have a model with a key or a function that only their own worker knows.
    * `DSPex.Python.configure_lm/3` configures all workers, and those that are started later. `DSPex.Python.cancel/2`, `DSPex.Python.running_calls/1`,
      `DSPex.Python.metrics/1`, `DSPex.Python.list_sessions/1` and `DSPex.Python.list_programs/2` are about all of them; `metrics["workers"]` has those of each.
    * `prediction.meta` and `DSPex.Python.ping/2` say which `"worker"` has answered, by a number that no other worker of the pool gets, and
      its `"pid"`.

  When no worker has room, a call waits for its turn: callers take turns, so thousands of calls of one process delay another's by
  one. A call that would wait longer than its timeout, as far as the pool knows, is refused at once. The error of kind
  `:overloaded` has `error.details["retry_after"]` in seconds.

  ## What happens when Python ends

  A Python that ends after it has been ready is started again at once, with the model that was configured last, in the options or
  by `DSPex.Python.configure_lm/3`. It finds its sessions and programs in the pool's
  `:store`; without one (`store: false`) they are lost, and with a session its model. Its pending calls return an error of kind `:worker_died`, which is `retryable`. `error.details["sent"]` says whether Python had the call,
  `"asked"` whether a model had been asked for it or a function called, and `"called"` whether others have seen something of it: a tool
  or another function was called, or a piece of a stream sent; `nil`: that is not known. A
  call that was in flight at two deaths in a row (the same `request_id`, or the same arguments) is not `retryable`: it may
  be what ends Python, and the log names it. Calls that are made while Python is being started wait for it, or go to another
  worker. With a `:standby` that is ready, they wait for no start, but for less than half a second.

  If Python cannot be started, the pool tries again after 1 s, 2 s, 4 s and so on, up to every 30 s. In the meantime each
  call returns at once with an error that names the cause and the remedy.

  ## Stopping

  A pool that is stopped, by `DSPex.Python.stop_pool/1`, by its supervisor or with the application, lets its calls in flight end within
  `:stop_timeout`, also streams, batches, and calls that wait for a worker; it stops at once if there are none. Other nodes send it no
  calls from then on. A further call is an error of kind `:pool_not_found`, as one of a waiting call that would not begin in time; calls
  that the functions of a call in flight make are not refused. What has not ended by then is answered with kind `:port_closed`. Pools
  stop at the same time when the application stops.

  ## What happens when threads of Python are stuck

  At its deadline, or when it is cancelled, Python code that runs in a thread (a tool, a module that runs code) is
  interrupted. A function in C that blocks, such as a socket without a timeout, keeps its thread nevertheless. Such a
  stuck thread is logged with its function and `request_id`, counted in `DSPex.Python.metrics/1`, and replaced by another
  thread.

  Most of them are only slow, and end some seconds later. A thread that is stuck for longer than `:lost_after` is lost. When
  more than `:max_stuck` threads are lost and no thread is free, the pool starts another Python, and uses it as soon as it is
  ready. No call fails or waits because of that, except calls that take longer than `:drain_timeout`: they return an error
  of kind `:port_closed`. The new Python has the model that was configured last; sessions and programs are in the pool's `:store`.

  The same happens at the limits `:max_memory`, `:max_calls` and `:max_age`. Workers are replaced one at a time, and the log says why;
  `DSPex.Python.metrics/1` counts it under `["pool"]["recycled"]`.

  ## What Python logs and prints

  Python's log entries and printed lines go to `Logger`, with the metadata `:pool`, `:python_logger` (the name of the
  logger; `"stdout"` or `"stderr"` for printed lines, `"py.warnings"` for warnings), with the metadata of the calling process under
  the keys `:log_metadata`, and with the `:request_id` of the call's options, if it has one. Python
  decides what it logs; a logger without a configuration logs warnings and errors. C code and child processes write to
  standard error. If Python logs more than can be written, entries are dropped, and their number is logged.

  ## When one worker is enough

  One worker serves many calls at the same time: while models are asked, Python waits. Several are worth their memory (60 MB
  each) where Python computes: more than some hundred predictions a second, large inputs and answers, code in sandboxes. A
  second pool is worth it for another interpreter, or for other Python packages.
  """

  use Supervisor, restart: :permanent

  alias DSPex.Python.{Error, ModelFunction}
  alias DSPex.Python.Functions.Budgets

  alias DSPex.Python.Port.{
    ConfiguredModel,
    Interpreter,
    Log,
    Names,
    Owner,
    PoolOptions,
    PoolTally,
    Quarantine,
    StoreOption,
    Template,
    Workers
  }

  alias DSPex.Python.Pool.{Dispatch, Membership, Queue, Routing, Settings, Stopping}
  alias DSPex.Python.Wire.Limits

  # How many faults of its own processes, in ten seconds, end a pool. Those of Pythons do not count (DSPex.Python.Port.Workers).
  @max_restarts 100

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

  Raises if the application `:dspex` has not been started, which has the names of all pools.
  """
  @spec start_link(keyword() | PoolOptions.t()) :: Supervisor.on_start()
  def start_link(%PoolOptions{name: pool} = options) do
    if not Names.available?() do
      raise "pool #{inspect(pool)} needs the application :dspex, which is not started; list it under :extra_applications or " <>
              "the dependencies of your application, or call Application.ensure_all_started(:dspex) before"
    end

    Supervisor.start_link(__MODULE__, options, name: Names.via(:pool, pool))
  end

  def start_link(options) when is_list(options), do: options |> PoolOptions.new!() |> start_link()

  @impl true
  def init(options) do
    waiting = Queue.counters()

    # Until then callers wait (DSPex.Python.Pool.Settings).
    Names.set_value(:pool, options.name, %{
      strict: options.strict,
      log_metadata: options.log_metadata,
      redact: options.redact,
      exports?: options.otlp != nil,
      retry: options.retry,
      places: options.size * options.max_in_flight,
      size: options.size,
      store?: StoreOption.store?(options),
      quarantine: Quarantine.new(),
      tally: PoolTally.new(),
      budgets: {Budgets.table(), options.budgets},
      waiting: waiting
    })

    log = %{id: Log, start: {Log, :start_link, [options.name]}}
    model = %{id: ConfiguredModel, start: {ConfiguredModel, :start_link, [options]}}
    queue = %{id: Queue, start: {Queue, :start_link, [{options, waiting}]}}
    options = ConfiguredModel.in_options(options)

    owners =
      for index <- 1..(options.size + options.standby),
          do: Owner.child_spec(options, caller(options.name), {Owner, index})

    workers = %{
      id: Workers,
      start: {Workers, :start_link, [{options, owners}]},
      type: :supervisor
    }

    membership = %{id: Membership, start: {Membership, :start_link, [options]}}

    # In this order: the last one ends first, so that the pool leaves its group, and lets its calls end, before its workers end.
    children =
      [log, model, queue] ++
        Template.children(options) ++ [workers, {Stopping, {options, waiting}}, membership]

    Supervisor.init(children,
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: 10
    )
  end

  @doc """
  Calls an operation in a worker of the pool; returns the operation's own answer, undecorated.

  Waits for a Python that is being started or restarted, and for a worker that has room, within `timeout`.
  """
  @spec call(atom(), atom(), [term()], timeout(), [Dispatch.option()]) ::
          {:ok, term()} | {:error, Error.t()}
  defdelegate call(pool, operation, args, timeout, options \\ []), to: Dispatch

  @doc false
  # Checks the size of what becomes a call only later, such as arguments that are written as JSON first.
  @spec check_request(atom(), term()) :: :ok | {:error, Error.t()}
  def check_request(pool, args) do
    case Routing.connection(pool, :any) do
      nil -> :ok
      connection -> Limits.check_request(args, connection.max_request_bytes)
    end
  end

  @doc false
  # Returns `call/4` for one pool, as model functions take it.
  @spec caller(atom()) :: ModelFunction.pool_call()
  def caller(pool), do: &call(pool, &1, &2, &3)

  @doc false
  # Returns the numbers of the workers to which a call about all of them goes: those that take calls, and those that are being
  # replaced and still work on some.
  @spec workers(atom()) :: [pos_integer()]
  def workers(pool),
    do: for({number, _owner, %{spare?: false}} <- Names.workers(pool), do: number)

  @doc false
  # Returns what has happened to the workers of a pool, as `DSPex.Python.metrics/1` shows it.
  @spec report(atom()) :: map()
  def report(pool) do
    case Settings.find(pool) do
      %{} = value ->
        Map.merge(PoolTally.report(value.tally), %{
          "size" => value.size,
          "spares" => Enum.count(Names.workers(pool), fn {_, _, worker} -> worker.spare? end),
          "queued" => Queue.waiting(value.waiting)
        })

      nil ->
        %{}
    end
  end

  @doc false
  # Kills every Python that does not read. The BEAM could not halt while a port cannot be written to.
  @spec kill_deaf() :: :ok
  def kill_deaf do
    for pool <- Names.pools(), {_number, _owner, worker} <- Names.workers(pool) do
      Interpreter.kill_if_deaf(worker.connection.port)
    end

    :ok
  end
end
