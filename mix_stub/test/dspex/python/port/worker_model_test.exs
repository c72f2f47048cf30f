defmodule DSPex.Python.Port.WorkerModelTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, Invocation}
  alias DSPex.Python.Port.{PendingCalls, WorkerModel}

  defp function(answer) do
    callbacks = [Callback.new("the model", fn _request -> answer end, 5_000)]
    {Callbacks.register(callbacks), callbacks}
  end

  # What Python gets if it calls one of the functions.
  defp call({_registration, [callback]}), do: Invocation.run(callback.id, %{}, & &1)

  defp from, do: {self(), make_ref()}

  defp replied({_pid, tag}) do
    receive do
      {^tag, reply} -> reply
    after
      0 -> :waits
    end
  end

  test "whoever asks during a change waits for the next one, which begins after it" do
    [first, second, third] = [from(), from(), from()]
    model = WorkerModel.ask(%WorkerModel{}, first)
    assert WorkerModel.to_change?(model)
    model = model |> WorkerModel.begin() |> WorkerModel.next(function("one"))
    refute WorkerModel.to_change?(model)
    model = model |> WorkerModel.ask(second) |> WorkerModel.ask(third)
    refute WorkerModel.to_change?(model)

    model = WorkerModel.ended(model, :ok)
    assert Enum.map([first, second, third], &replied/1) == [:ok, :waits, :waits]
    assert WorkerModel.to_change?(model)

    failed = {:error, Error.new(:input, "no such model")}
    model = model |> WorkerModel.begin() |> WorkerModel.ended(failed)
    assert Enum.map([second, third], &replied/1) == [failed, failed]
    refute WorkerModel.to_change?(model)
    assert {:failed, %Error{kind: :input}} = model.state
  end

  test "the functions of a model can be called until Python has the next one" do
    [old, new] = [function("old"), function("new")]
    model = %WorkerModel{} |> WorkerModel.configured(nil, old) |> WorkerModel.next(new)
    assert {{:ok, "old"}, {:ok, "new"}} = {call(old), call(new)}
    model = WorkerModel.ended(model, :ok)
    assert model.state == :configured
    assert {{:error, _gone}, {:ok, "new"}} = {call(old), call(new)}

    refused = function("refused")

    model =
      model |> WorkerModel.next(refused) |> WorkerModel.ended({:error, Error.new(:input, "no")})

    assert {{:error, _gone}, {:ok, "new"}} = {call(refused), call(new)}
    # Of another place.
    session = function("of the session")
    model = WorkerModel.configured(model, "s", session)
    assert {{:ok, "of the session"}, {:ok, "new"}} = {call(session), call(new)}
    WorkerModel.configured(model, "s", {nil, []})
    assert {{:error, _gone}, {:ok, "new"}} = {call(session), call(new)}
  end

  test "the calls that run during a change can call the functions of the model before it" do
    [old, new, last] = [function("old"), function("new"), function("last")]
    calls = PendingCalls.new()
    running = PendingCalls.add(calls, make_ref())

    model =
      %WorkerModel{calls: calls}
      |> WorkerModel.configured(nil, old)
      |> WorkerModel.configured(nil, new)

    later = PendingCalls.add(calls, make_ref())
    model = WorkerModel.configured(model, nil, last)
    assert Enum.map([old, new, last], &call/1) == [{:ok, "old"}, {:ok, "new"}, {:ok, "last"}]

    PendingCalls.take(calls, running)
    model = released(model)
    assert {{:error, _}, {:ok, "new"}, {:ok, "last"}} = {call(old), call(new), call(last)}
    PendingCalls.take(calls, later)
    assert released(model).functions.replaced == []
    assert {{:error, _}, {:error, _}, {:ok, "last"}} = {call(old), call(new), call(last)}
    refute_receive :release_functions, 1_500
  end

  # It is asked once in a while, however many were replaced.
  defp released(model) do
    assert_receive :release_functions, 5_000
    refute_received :release_functions
    WorkerModel.release(model)
  end

  test "a model that Python may have got keeps the functions of the one before, until the next" do
    [old, perhaps, new] = [function("old"), function("perhaps"), function("new")]
    model = WorkerModel.configured(%WorkerModel{}, "s", old)
    model = WorkerModel.perhaps_configured(model, "s", perhaps)
    assert {{:ok, "old"}, {:ok, "perhaps"}} = {call(old), call(perhaps)}
    WorkerModel.configured(model, "s", new)
    assert {{:error, _}, {:error, _}, {:ok, "new"}} = {call(old), call(perhaps), call(new)}
  end

  test "nobody waits for a Python that there is not" do
    [begun, asked] = [from(), from()]

    model =
      %WorkerModel{} |> WorkerModel.ask(begun) |> WorkerModel.begin() |> WorkerModel.ask(asked)

    refute model |> WorkerModel.give_up() |> WorkerModel.to_change?()
    assert {replied(begun), replied(asked)} == {:ok, :ok}
  end
end
