defmodule DSPex.ModelServer do
  @moduledoc """
  Runs the OpenAI-compatible server on loopback that pytest uses too: `tests/model_server`.

  The name of the model selects its behaviour, see its docstring.
  """

  alias DSPex.LoopbackServer
  alias DSPex.Python.JSON

  @doc """
  Starts the server under the test's supervisor and returns its address.
  """
  def start!, do: LoopbackServer.start!("model_server")

  @doc """
  Returns the model of that name, in the form of a pool's option `:model`.
  """
  def model(url, name),
    do: {:openai, [model: name, api_base: url, api_key: "test-key-7f3a", num_retries: 0]}

  @doc """
  Adds replies for the model of that name.
  """
  def script!(url, name, replies) do
    {:ok, body} = JSON.encode(%{name: name, replies: replies})
    LoopbackServer.request(url, "POST /script", body)
    :ok
  end

  @doc """
  Returns the API keys of all requests so far, oldest first.
  """
  def keys(url) do
    for %{"headers" => %{"authorization" => "Bearer " <> key}} <- requests(url), do: key
  end

  @doc """
  Returns the requests so far, oldest first.
  """
  def requests(url) do
    {:ok, %{"requests" => requests}} =
      url |> LoopbackServer.request("GET /requests") |> JSON.decode()

    requests
  end
end
