defmodule DSPex.TestTelemetry do
  @moduledoc """
  Stands for the library `telemetry`, on which this project does not depend: two modules of its names with the functions that are used.

  They are loaded for the tests that need them alone, so that other tests run without handlers, as without the library.
  """

  @source """
  defmodule :telemetry_handler_table do
    def list_for_event(event), do: :ets.lookup(:test_telemetry, event)
  end

  defmodule :telemetry do
    def attach(id, event, function, config), do: attach_many(id, [event], function, config)

    def attach_many(id, events, function, config) do
      if :ets.match(:test_telemetry, {:_, id, :_, :_}) != [] do
        {:error, :already_exists}
      else
        for event <- events, do: :ets.insert(:test_telemetry, {event, id, function, config})
        :ok
      end
    end

    def detach(id) do
      known = :ets.match(:test_telemetry, {:_, id, :_, :_})
      :ets.match_delete(:test_telemetry, {:_, id, :_, :_})
      if known == [], do: {:error, :not_found}, else: :ok
    end

    def execute(event, measurements, metadata) do
      for {_event, _id, function, config} <- :telemetry_handler_table.list_for_event(event),
          do: function.(event, measurements, metadata, config)

      :ok
    end
  end
  """

  @doc """
  Loads the modules until the end of the test module; to be called in `setup_all`.
  """
  def load! do
    unload = load()
    ExUnit.Callbacks.on_exit(unload)
  end

  @doc """
  Loads the modules; returns the function that removes them.
  """
  def load do
    caller = self()

    # Its owner must live as long as the modules.
    owner =
      spawn(fn ->
        :ets.new(:test_telemetry, [:bag, :public, :named_table, read_concurrency: true])
        send(caller, :test_telemetry_is_there)
        receive do: (:end -> :ok)
      end)

    receive do: (:test_telemetry_is_there -> :ok)
    Code.compile_string(@source)

    fn ->
      for module <- [:telemetry, :telemetry_handler_table] do
        :code.purge(module)
        :code.delete(module)
      end

      monitor = Process.monitor(owner)
      send(owner, :end)
      receive do: ({:DOWN, ^monitor, :process, _owner, _reason} -> :ok)
    end
  end

  @doc """
  Sends each of these events to the calling process as `{event, measurements, metadata, pid}`, until the test ends.
  """
  def attach!(events) do
    test = self()
    id = make_ref()

    handler = fn event, measurements, metadata, _config ->
      send(test, {event, measurements, metadata, self()})
    end

    :ok = apply(:telemetry, :attach_many, [id, events, handler, nil])
    ExUnit.Callbacks.on_exit(fn -> apply(:telemetry, :detach, [id]) end)
  end
end
