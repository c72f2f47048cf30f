defmodule DSPex.Python.Port.Startup do
  @moduledoc false

  # Starts a Python for the owner of a port, in steps: the interpreter is opened, `ping` tells that the runtime works,
  # `provide_programs` gives it the programs of the pool, if there are any, and `configure_lm` sets the pool's model. Each
  # step returns what the owner has to do next:
  #
  #     {:wait, startup}                               wait for a message, and pass it to this module
  #     {:register, startup, functions}                keep the functions of the model registered, and wait
  #     {:ready, startup, :ok | {:error, error}}       take calls; the error is why the model could not be configured
  #     {:failed, startup, error}                      answer all calls; the message `:start_again` comes after 1 to 30 s

  require Logger

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, CallbackRegistry, Model}
  alias DSPex.Python.ModelFunction

  alias DSPex.Python.Port.{
    AskedNotes,
    Connection,
    Diagnosis,
    Interpreter,
    PendingCalls,
    PoolOptions,
    PoolTally,
    ProcessState,
    ProgramFiles,
    Template
  }

  alias DSPex.Python.Wire.Protocol

  @first_retry_ms 1_000
  @last_retry_ms 30_000

  @enforce_keys [:options, :pool_call, :pending_calls, :tally, :worker, :successor?]
  defstruct [
    :options,
    :pool_call,
    :pending_calls,
    :tally,
    :worker,
    :successor?,
    :port,
    :python,
    :process,
    :timer,
    :probe,
    :ended,
    :logged,
    :asked_notes,
    failures: 0
  ]

  @typedoc """
  `tally` is that of the pool, `nil` without a pool, `worker` the number of the Python, `successor?` tells whether other Pythons take
  the calls until this one is ready, `port` is the port of the Python that is being started, `python` the path of its interpreter,
  `process` the state of its process once it has answered, `probe` the task that finds out why it has ended, `ended` how it ended the
  last time if the probe has found the cause, `logged` the cause of the last failure, `asked_notes` where Python notes which calls ask a
  model.
  """
  @type t :: %__MODULE__{
          options: PoolOptions.t(),
          pool_call: ModelFunction.pool_call(),
          pending_calls: PendingCalls.t(),
          tally: PoolTally.t() | nil,
          worker: pos_integer(),
          successor?: boolean(),
          port: port() | nil,
          python: String.t() | nil,
          process: ProcessState.t() | nil,
          timer: reference() | nil,
          probe: Task.t() | nil,
          ended: term(),
          logged: String.t() | nil,
          asked_notes: AskedNotes.t() | nil,
          failures: non_neg_integer()
        }

  @type step ::
          {:wait, t()}
          | {:register, t(), {CallbackRegistry.registration() | nil, [Callback.t()]}}
          | {:ready, t(), :ok | {:error, Error.t()}}
          | {:failed, t(), Error.t()}

  @doc """
  Prepares the starts of one owner.
  """
  @spec new(
          PoolOptions.t(),
          ModelFunction.pool_call(),
          PendingCalls.t(),
          PoolTally.t() | nil,
          pos_integer(),
          boolean()
        ) :: t()
  def new(options, pool_call, pending_calls, tally, worker, successor?) do
    %__MODULE__{
      options: options,
      pool_call: pool_call,
      pending_calls: pending_calls,
      tally: tally,
      worker: worker,
      successor?: successor?
    }
  end

  @doc """
  Begins a start. The calling process becomes the owner of the port, and gets the message `:start_timeout` if the start
  takes too long.
  """
  @spec begin(t()) :: step()
  def begin(%__MODULE__{options: options} = startup) do
    timer = Process.send_after(self(), :start_timeout, options.start_timeout)
    startup = %{startup | timer: timer}

    case Interpreter.find(options) do
      {:not_found, path} -> failed(startup, Diagnosis.not_found(path, options))
      {:ok, python} -> start(%{startup | python: python})
    end
  end

  # A Python that has ended writes to standard error why. The probe finds out whether it would do so again, and only this
  # module reads what the probe writes.
  defp start(%{ended: status} = startup) when status != nil, do: probe(startup, status)
  defp start(startup), do: open(startup)

  defp open(%{python: python, options: options} = startup) do
    startup = %{startup | asked_notes: AskedNotes.open()}

    case Interpreter.open(python, options, worker(startup)) do
      {:ok, port} -> {:wait, call(%{startup | port: port}, :ping, [])}
      {:error, error} -> failed(startup, error)
    end
  end

  defp worker(startup) do
    %{
      number: startup.worker,
      asked_notes: startup.asked_notes && startup.asked_notes.path,
      socket: Template.socket(startup.options.name),
      warm_up?: startup.successor?
    }
  end

  @doc """
  Continues with the answer to a call `{:startup, operation}`.
  """
  @spec answered(t(), atom(), {:ok, term()} | {:error, Error.t()}) :: step()
  def answered(startup, :ping, {:ok, {:ok, pong}}),
    do: provide(%{startup | process: Interpreter.process_state(startup.port, pong["pid"])})

  def answered(startup, :ping, {:ok, {:error, {:python_exception, details}}}),
    do: failed(startup, Error.from_details(details))

  # What the environment says is wrong; the message names the variable.
  def answered(
        startup,
        :ping,
        {:error, %Error{type: "erlport_bridge.errors.OperationError"} = error}
      ),
      do: failed(startup, Error.new(:input, error.message))

  def answered(
        startup,
        :ping,
        {:error, %Error{type: "erlport_bridge.errors.MissingPackageError"} = error}
      ),
      do: failed(startup, Error.new(:missing_dependency, error.message))

  def answered(startup, :ping, {:error, error}) do
    Interpreter.close(startup.port)
    python_ended(startup, {:cannot_load, error.message})
  end

  def answered(startup, :provide_programs, {:ok, {:ok, _described}}), do: configure(startup)

  def answered(startup, :provide_programs, {:ok, {:error, {:python_exception, details}}}),
    do: programs_failed(startup, Error.from_details(details))

  def answered(startup, :provide_programs, {:error, error}), do: programs_failed(startup, error)

  def answered(startup, :configure_lm, {:ok, {:error, {:python_exception, details}}}),
    do: model_failed(startup, Error.from_details(details))

  def answered(startup, :configure_lm, {:error, error}), do: model_failed(startup, error)
  def answered(startup, :configure_lm, {:ok, {:ok, _configured}}), do: ready(startup, :ok)

  # Such as text for an atom, when a module of `preload:` has had Python import the operations twice.
  def answered(startup, :configure_lm, {:ok, other}),
    do: model_failed(startup, odd_answer(startup, :configure_lm, other))

  def answered(startup, operation, {:ok, other}),
    do: failed(startup, odd_answer(startup, operation, other))

  @doc """
  Begins to configure the pool's model: at the start, and when it was changed.
  """
  @spec configure(t()) :: step()
  def configure(startup) do
    with model when model != nil <- startup.options.model.(),
         {:ok, {provider, config}, callbacks} <- Model.resolve_checked(model, startup.pool_call) do
      callbacks =
        callbacks
        |> Callback.on_behalf(startup.options.configured_by.())
        |> Callback.quiet(startup.options.redact != nil)

      registration = if callbacks != [], do: Callbacks.register(callbacks)
      startup = call(startup, :configure_lm, [provider, config, %{}])
      {:register, startup, {registration, callbacks}}
    else
      nil -> ready(startup, :ok)
      {:error, error} -> model_failed(startup, error)
    end
  end

  @doc """
  Ends a start that takes too long.
  """
  @spec timed_out(t()) :: step()
  def timed_out(startup) do
    message =
      "python at #{inspect(startup.python)} was not ready within #{startup.options.start_timeout} ms"

    # Python does not notice a closed port while it hangs, so each attempt would leave one more process.
    Interpreter.kill(startup.port)
    failed(startup, Error.new(:port_closed, message))
  end

  @doc """
  Begins to find out why Python has ended before it was ready, or cannot load the operations.

  This takes as long as an import of DSPy, so it runs in a task, whose result `{ref, {:probed, result}}` is for `probed/2`.
  """
  @spec python_ended(t(), term()) :: step()
  def python_ended(startup, status), do: probe(%{startup | port: nil, ended: nil}, status)

  defp probe(%{python: python, options: options} = startup, status) do
    probe =
      Task.async(fn ->
        # A process that ends while it opens a port makes Erlang print `erl_child_setup: failed with error 32`. So the
        # end of the owner, such as when the pool is stopped, waits for the end of the probe and not the other way round.
        Process.flag(:trap_exit, true)
        {:probed, {status, Diagnosis.diagnose(python, options, status)}}
      end)

    {:wait, %{startup | probe: probe}}
  end

  @doc """
  Ends a start whose Python has ended, with the cause; or goes on with one that was probed before and would not end now.
  """
  @spec probed(t(), {term(), Diagnosis.t()}) :: step()
  def probed(startup, {status, diagnosis}) do
    Process.demonitor(startup.probe.ref, [:flush])
    startup = %{startup | probe: nil}

    case {diagnosis, startup.ended} do
      {{:found, error}, _before} -> failed(%{startup | ended: status}, error)
      {{:unknown, error}, nil} -> failed(startup, error)
      {{:unknown, _error}, _mended} -> open(%{startup | ended: nil})
    end
  end

  @doc """
  Ends the probe, if there is one, with the Python that it has started: the imports of that may take for ever.
  """
  @spec end_probe(t()) :: :ok
  def end_probe(%{probe: nil}), do: :ok

  def end_probe(%{probe: probe}) do
    with {:links, links} <- Process.info(probe.pid, :links),
         do: for(port <- links, is_port(port), do: Interpreter.kill(port))

    Process.demonitor(probe.ref, [:flush])
    :ok
  end

  defp odd_answer(%{python: python, options: options}, operation, answer) do
    Error.new(
      :missing_dependency,
      "python at #{inspect(python)} answered #{operation} with #{inspect(answer, limit: 3, printable_limit: 100)}; check the " <>
        "options :preload, :modules and :python_path of pool #{inspect(options.name)}"
    )
  end

  defp provide(%{options: %{programs: []}} = startup), do: configure(startup)

  defp provide(%{options: options} = startup) do
    case ProgramFiles.read(options.programs) do
      {:ok, texts} -> {:wait, call(startup, :provide_programs, [texts])}
      {:error, error} -> failed(startup, error)
    end
  end

  # A pool without its programs is not what its callers expect: it has no Python until the file is mended.
  defp programs_failed(startup, error),
    do: failed(startup, ProgramFiles.explain(error, startup.options.programs))

  defp call(startup, operation, args) do
    id = PendingCalls.add(startup.pending_calls, {:startup, operation})
    # A port that has just been opened is not busy, so the little of this call is written at once.
    Connection.write_frame(
      startup.port,
      Protocol.frame(id, Protocol.encode_request(operation, args))
    )

    startup
  end

  # Without a model, Python can still list modules, configure another model, and serve calls that bring their own.
  defp model_failed(startup, error) do
    Logger.warning(
      "the model of pool #{inspect(startup.options.name)} cannot be configured: #{error.message}"
    )

    ready(startup, {:error, error})
  end

  defp ready(startup, model) do
    cancel(startup.timer)
    if startup.tally, do: PoolTally.forget_failures(startup.tally)
    {:ready, %{startup | timer: nil, failures: 0, logged: nil}, model}
  end

  defp failed(startup, error) do
    cancel(startup.timer)
    end_probe(startup)
    Interpreter.close(startup.port)
    AskedNotes.close(startup.asked_notes)

    retry_ms = min(@first_retry_ms * Integer.pow(2, min(startup.failures, 10)), @last_retry_ms)
    Process.send_after(self(), :start_again, retry_ms)
    log_failure(startup, error)

    {:failed,
     %{
       startup
       | port: nil,
         timer: nil,
         probe: nil,
         asked_notes: nil,
         failures: startup.failures + 1,
         logged: error.message
     }, error}
  end

  # Each cause once for all workers: an entry for each attempt would be written over the prompt of IEx, and fill a log.
  defp log_failure(%{logged: cause}, %{message: cause}), do: :ok

  # Whether it is tried again depends on who has asked for it, see Recycling.
  defp log_failure(%{successor?: true} = startup, error) do
    Logger.error(
      "the new python of pool #{inspect(startup.options.name)} cannot be started, and the old one stays: #{error.message}"
    )
  end

  defp log_failure(startup, error) do
    if startup.tally == nil or PoolTally.first_failure?(startup.tally, error.message) do
      Logger.error(
        "pool #{inspect(startup.options.name)} has no python: #{error.message}; its start is tried again, at least " <>
          "every #{div(@last_retry_ms, 1000)} s"
      )
    end
  end

  defp cancel(nil), do: :ok
  defp cancel(timer), do: Process.cancel_timer(timer)
end
