defmodule DSPex.LoopbackServer do
  @moduledoc """
  Runs a server of the Python tests on loopback, as a process of its own that ends with the test, and asks it by HTTP.
  """

  use GenServer, restart: :temporary

  @tests Path.expand("../../../tests", __DIR__)

  @doc """
  Starts the server of a script in `tests/` under the test's supervisor, and returns its address, its first line.
  """
  @spec start!(Path.t()) :: String.t()
  def start!(script) do
    child = Supervisor.child_spec({__MODULE__, Path.join(@tests, script)}, id: make_ref())
    child |> ExUnit.Callbacks.start_supervised!() |> GenServer.call(:url, 30_000)
  end

  @doc """
  Returns the body of an answer of status 200 to a request, such as `GET /requests`.
  """
  @spec request(String.t(), String.t(), iodata()) :: String.t()
  def request(url, request, body \\ "") do
    %URI{host: host, port: port} = URI.parse(url)
    {:ok, socket} = :gen_tcp.connect(to_charlist(host), port, [:binary, active: false])
    head = "#{request} HTTP/1.0\r\ncontent-length: #{IO.iodata_length(body)}\r\n\r\n"
    :ok = :gen_tcp.send(socket, [head, body])
    [head, answer] = socket |> received() |> String.split("\r\n\r\n", parts: 2)
    true = head =~ ~r{\AHTTP/1\.[01] 200 }
    answer
  end

  defp received(socket) do
    case :gen_tcp.recv(socket, 0, 5_000) do
      {:ok, bytes} -> bytes <> received(socket)
      {:error, :closed} -> ""
    end
  end

  def start_link(script), do: GenServer.start_link(__MODULE__, script)

  @impl true
  def init(script) do
    port =
      Port.open({:spawn_executable, DSPex.TestPython.interpreter()}, [
        :binary,
        {:line, 1_000},
        args: [script]
      ])

    {:ok, %{port: port, url: nil, waiting: nil}}
  end

  @impl true
  def handle_call(:url, from, %{url: nil} = state), do: {:noreply, %{state | waiting: from}}
  def handle_call(:url, _from, state), do: {:reply, state.url, state}

  @impl true
  def handle_info({port, {:data, {:eol, url}}}, %{port: port, url: nil} = state) do
    if state.waiting, do: GenServer.reply(state.waiting, url)
    {:noreply, %{state | url: url}}
  end

  def handle_info({port, {:data, _line}}, %{port: port} = state), do: {:noreply, state}
end
