defmodule DSPex.ModelServer do
  @moduledoc """
  Runs the OpenAI-compatible server on loopback that pytest uses too: `tests/model_server`.

  The server is a process of its own that ends with the test. The name of the model selects its behaviour, see its
  docstring.
  """

  use GenServer, restart: :temporary

  @script Path.expand("../../../tests/model_server", __DIR__)

  @doc """
  Starts the server under the test's supervisor and returns its address.
  """
  def start! do
    server = ExUnit.Callbacks.start_supervised!(__MODULE__)
    GenServer.call(server, :url, 30_000)
  end

  @doc """
  Returns the model of that name, in the form of a pool's option `:model`.
  """
  def model(url, name),
    do: {:openai, [model: name, api_base: url, api_key: "test-key-7f3a", num_retries: 0]}

  @doc """
  Adds replies for the model of that name.
  """
  def script!(url, name, replies) do
    {:ok, body} = DSPex.Python.JSON.encode(%{name: name, replies: replies})
    %URI{host: host, port: port} = URI.parse(url)
    {:ok, socket} = :gen_tcp.connect(to_charlist(host), port, [:binary, active: false])
    head = "POST /script HTTP/1.0\r\ncontent-length: #{byte_size(body)}\r\n\r\n"
    :ok = :gen_tcp.send(socket, [head, body])
    "HTTP/1.1 200" <> _rest = received(socket)
    :ok
  end

  @doc """
  Returns the API keys of all requests so far, oldest first.
  """
  def keys(url) do
    %URI{host: host, port: port} = URI.parse(url)
    {:ok, socket} = :gen_tcp.connect(to_charlist(host), port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, "GET /requests HTTP/1.0\r\n\r\n")
    [_head, body] = socket |> received() |> String.split("\r\n\r\n", parts: 2)
    {:ok, %{"requests" => requests}} = DSPex.Python.JSON.decode(body)
    for %{"headers" => %{"authorization" => "Bearer " <> key}} <- requests, do: key
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

  # The first line that the server prints is its address.
  @impl true
  def handle_info({port, {:data, {:eol, url}}}, %{port: port, url: nil} = state) do
    if state.waiting, do: GenServer.reply(state.waiting, url)
    {:noreply, %{state | url: url}}
  end

  def handle_info({port, {:data, _line}}, %{port: port} = state), do: {:noreply, state}
end
