defmodule DSPex.Python.Port.Startup do
  @moduledoc false

  # Starts a Python for the owner of a port, in three steps: the interpreter is opened, `ping` tells that the runtime
  # works, `configure_lm` sets the pool's model. Each step returns what the owner has to do next:
  #
  #     {:wait, startup}                               wait for a message, and pass it to this module
  #     {:register, startup, registration, callbacks}  keep the functions of the model registered, and wait
  #     {:ready, startup, :ok | {:error, error}}       take calls; the error is why the model could not be configured
  #     {:failed, startup, error}                      answer all calls; the message `:start_again` comes after 1 to 30 s

  require Logger

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, CallbackRegistry, Model}
  alias DSPex.Python.ModelFunction
  alias DSPex.Python.Port.{Connection, Interpreter, PendingCalls, PoolOptions}
  alias DSPex.Python.Wire.Protocol

  @first_retry_ms 1_000
  @last_retry_ms 30_000

  @enforce_keys [:options, :pool_call, :pending_calls]
  defstruct [
    :options,
    :pool_call,
    :pending_calls,
    :port,
    :python,
    :timer,
    :probe,
    :logged,
    failures: 0
  ]

  @typedoc """
  `port` is the port of the Python that is being started, `python` the path of its interpreter, `probe` the task that finds
  out why it has ended, `logged` the cause of the last failure.
  """
  @type t :: %__MODULE__{
          options: PoolOptions.t(),
          pool_call: ModelFunction.pool_call(),
          pending_calls: PendingCalls.t(),
          port: port() | nil,
          python: String.t() | nil,
          timer: reference() | nil,
          probe: Task.t() | nil,
          logged: String.t() | nil,
          failures: non_neg_integer()
        }

  @type step ::
          {:wait, t()}
          | {:register, t(), CallbackRegistry.registration() | nil, [Callback.t()]}
          | {:ready, t(), :ok | {:error, Error.t()}}
          | {:failed, t(), Error.t()}

  @doc """
  Prepares the starts of one owner.
  """
  @spec new(PoolOptions.t(), ModelFunction.pool_call(), PendingCalls.t()) :: t()
  def new(options, pool_call, pending_calls),
    do: %__MODULE__{options: options, pool_call: pool_call, pending_calls: pending_calls}

  @doc """
  Begins a start. The calling process becomes the owner of the port, and gets the message `:start_timeout` if the start
  takes too long.
  """
  @spec begin(t()) :: step()
  def begin(%__MODULE__{options: options} = startup) do
    timer = Process.send_after(self(), :start_timeout, options.start_timeout)
    startup = %{startup | timer: timer}

    with {:ok, python} <- Interpreter.find(options),
         {:ok, port} <- Interpreter.open(python, options) do
      {:wait, call(%{startup | port: port, python: python}, :ping, [])}
    else
      {:error, error} -> failed(startup, error)
    end
  end

  @doc """
  Continues with the answer to a call `{:startup, operation}`.
  """
  @spec answered(t(), atom(), {:ok, term()} | {:error, Error.t()}) :: step()
  def answered(startup, :ping, {:ok, {:ok, _pong}}) do
    with model when model != nil <- startup.options.model.(),
         {:ok, {provider, config}, callbacks} <- Model.resolve(model, startup.pool_call) do
      registration = if callbacks != [], do: Callbacks.register(callbacks)
      startup = call(startup, :configure_lm, [provider, config, %{}])
      {:register, startup, registration, callbacks}
    else
      nil -> ready(startup, :ok)
      {:error, error} -> model_failed(startup, error)
    end
  end

  def answered(startup, :ping, {:ok, {:error, {:python_exception, details}}}),
    do: failed(startup, Error.from_details(details))

  def answered(startup, :ping, {:error, error}) do
    message = "python at #{inspect(startup.python)} cannot load dspy_bridge: #{error.message}"
    facts = %{"traceback" => error.traceback}
    failed(startup, Error.new(:missing_dependency, message, facts))
  end

  def answered(startup, :configure_lm, {:ok, {:error, {:python_exception, details}}}),
    do: model_failed(startup, Error.from_details(details))

  def answered(startup, :configure_lm, {:error, error}), do: model_failed(startup, error)
  def answered(startup, :configure_lm, {:ok, _configured}), do: ready(startup, :ok)

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
  Begins to find out why Python has ended before it was ready.

  This takes as long as an import of DSPy, so it runs in a task, whose result `{ref, error}` is for `diagnosed/2`.
  """
  @spec python_ended(t(), term()) :: step()
  def python_ended(%{python: python, options: options} = startup, status) do
    probe = Task.async(fn -> Interpreter.diagnose(python, options, status) end)
    {:wait, %{startup | port: nil, probe: probe}}
  end

  @doc """
  Ends a start whose Python has ended, with the cause.
  """
  @spec diagnosed(t(), Error.t()) :: step()
  def diagnosed(startup, error) do
    Process.demonitor(startup.probe.ref, [:flush])
    failed(startup, error)
  end

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
    {:ready, %{startup | timer: nil, failures: 0, logged: nil}, model}
  end

  defp failed(startup, error) do
    cancel(startup.timer)
    if startup.probe, do: Task.shutdown(startup.probe, :brutal_kill)
    Interpreter.close(startup.port)

    retry_ms = min(@first_retry_ms * Integer.pow(2, min(startup.failures, 10)), @last_retry_ms)
    Process.send_after(self(), :start_again, retry_ms)
    log_failure(startup, error)

    {:failed,
     %{
       startup
       | port: nil,
         timer: nil,
         probe: nil,
         failures: startup.failures + 1,
         logged: error.message
     }, error}
  end

  # Each cause once: an entry for each attempt would be written over the prompt of IEx, and fill a log.
  defp log_failure(%{logged: cause}, %{message: cause}), do: :ok

  defp log_failure(startup, error) do
    Logger.error(
      "pool #{inspect(startup.options.name)} has no python: #{error.message}; its start is tried again, at least " <>
        "every #{div(@last_retry_ms, 1000)} s"
    )
  end

  defp cancel(nil), do: :ok
  defp cancel(timer), do: Process.cancel_timer(timer)
end
