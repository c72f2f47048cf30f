defmodule DSPex.Python.Port.WorkerModel do
  @moduledoc false

  # The model of one worker for its owner: its state, the functions that Python may call for it, and who waits for a change.
  # Changes are made one after the other, and Python calls the functions of its model until it has the next one.

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.ModelRegistrations
  alias DSPex.Python.Port.PendingCalls

  # `changing` are those who wait for the change that has begun, and `asked` those who wait for one that has not. `next` are the
  # functions of the model that is being configured, and `calls` those that may call the functions of the model.
  defstruct state: :none,
            functions: %ModelRegistrations{},
            calls: nil,
            next: nil,
            changing: [],
            asked: []

  @type t :: %__MODULE__{
          state: :none | :configured | {:failed, Error.t()},
          functions: ModelRegistrations.t(),
          calls: PendingCalls.t() | nil,
          next: ModelRegistrations.functions() | nil,
          changing: [GenServer.from()],
          asked: [GenServer.from()]
        }

  @doc """
  Keeps the functions of a model that Python has got by a call: for the pool, or for its session `session_id`.
  """
  @spec configured(t(), String.t() | nil, ModelRegistrations.functions()) :: t()
  def configured(model, nil, functions), do: %{keep(model, nil, functions) | state: :configured}
  def configured(model, session_id, functions), do: keep(model, session_id, functions)

  @doc """
  Keeps the functions of a model that Python may have got, by a call whose answer nobody waits for any more.
  """
  @spec perhaps_configured(t(), String.t() | nil, ModelRegistrations.functions()) :: t()
  def perhaps_configured(model, session_id, functions),
    do: %{model | functions: ModelRegistrations.add(model.functions, session_id, functions)}

  @doc """
  Ends the functions of replaced models that no call can call any more, as `ModelRegistrations.release/1`.
  """
  @spec release(t()) :: t()
  def release(model), do: %{model | functions: ModelRegistrations.release(model.functions)}

  @doc """
  Adds somebody who waits until Python has the model that is kept for the pool now.
  """
  @spec ask(t(), GenServer.from()) :: t()
  def ask(model, from), do: %{model | asked: [from | model.asked]}

  @doc """
  Tells whether a change has to begin: one is asked for, and none has begun.
  """
  @spec to_change?(t()) :: boolean()
  def to_change?(%{changing: changing, asked: asked}), do: changing == [] and asked != []

  @doc """
  Begins a change: those who have asked until now wait for it.
  """
  @spec begin(t()) :: t()
  def begin(model), do: %{model | changing: model.asked, asked: []}

  @doc """
  Keeps the functions of the model that Python gets when it starts, and has none before.
  """
  @spec first(t(), ModelRegistrations.functions()) :: t()
  def first(model, functions), do: model |> begin() |> keep(nil, functions)

  @doc """
  Takes the functions of the model that Python gets by the change that has begun.
  """
  @spec next(t(), ModelRegistrations.functions()) :: t()
  def next(model, functions), do: %{model | next: functions}

  @doc """
  Ends a change, or a start: `result` is what became of it, for those who wait.
  """
  @spec ended(t(), :ok | {:error, Error.t()}) :: t()
  def ended(%{next: nil} = model, :ok), do: reply(model, :ok)

  def ended(%{next: functions} = model, :ok),
    do: %{model | next: nil} |> configured(nil, functions) |> reply(:ok)

  def ended(model, {:error, error}) do
    with {registration, _callbacks} <- model.next, do: Callbacks.unregister(registration)
    reply(%{model | next: nil, state: {:failed, error}}, {:error, error})
  end

  @doc """
  Replies to all who wait: there is no Python, and the next one gets the model that is kept when it starts.
  """
  @spec give_up(t()) :: t()
  def give_up(model), do: model |> reply(:ok) |> begin() |> reply(:ok)

  @doc """
  Registers all functions again after their registry has ended, as `ModelRegistrations.register_again/1`.
  """
  @spec register_again(t()) :: t()
  def register_again(model),
    do: %{model | functions: ModelRegistrations.register_again(model.functions)}

  # Calls that Python has now may call the functions of the model that they began with.
  defp keep(%{calls: calls} = model, key, functions) do
    in_use? = if calls, do: PendingCalls.until_ended(calls), else: fn -> false end
    %{model | functions: ModelRegistrations.put(model.functions, key, functions, in_use?)}
  end

  defp reply(model, result) do
    for from <- model.changing, do: GenServer.reply(from, result)
    %{model | changing: []}
  end
end
