defmodule DSPex.OtlpCollector do
  @moduledoc """
  Runs the stand-in for a collector of OpenTelemetry that pytest uses too, `tests/otlp_collector.py`: a process of its own that ends
  with the test.
  """

  use GenServer, restart: :temporary

  @script Path.expand("../../../tests/otlp_collector.py", __DIR__)

  @doc """
  Starts the collector under the test's supervisor and returns its address.
  """
  def start! do
    collector = ExUnit.Callbacks.start_supervised!(__MODULE__)
    GenServer.call(collector, :url, 30_000)
  end

  @doc """
  Returns all spans that have come, in the order in which they came.
  """
  def spans(url) do
    {:ok, spans} = url |> get("/spans") |> DSPex.Python.JSON.decode()
    spans
  end

  @doc """
  Returns all bytes that have come.
  """
  def bytes(url), do: get(url, "/bytes")

  defp get(url, path) do
    %URI{host: host, port: port} = URI.parse(url)
    {:ok, socket} = :gen_tcp.connect(to_charlist(host), port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, "GET #{path} HTTP/1.0\r\n\r\n")
    [_head, body] = socket |> received() |> String.split("\r\n\r\n", parts: 2)
    body
  end

  defp received(socket) do
    case :gen_tcp.recv(socket, 0, 5_000) do
      {:ok, bytes} -> bytes <> received(socket)
      {:error, :closed} -> ""
    end
  end

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil)

  @impl true
  def init(nil) do
    port =
      Port.open({:spawn_executable, DSPex.TestPython.interpreter()}, [
        :binary,
        {:line, 1_000},
        args: [@script]
      ])

    {:ok, %{port: port, url: nil, waiting: nil}}
  end

  @impl true
  def handle_call(:url, from, %{url: nil} = state), do: {:noreply, %{state | waiting: from}}
  def handle_call(:url, _from, state), do: {:reply, state.url, state}

  # The first line that the collector prints is its address.
  @impl true
  def handle_info({port, {:data, {:eol, url}}}, %{port: port, url: nil} = state) do
    if state.waiting, do: GenServer.reply(state.waiting, url)
    {:noreply, %{state | url: url}}
  end

  def handle_info({port, {:data, _line}}, %{port: port} = state), do: {:noreply, state}
end
