defmodule DSPex.OtlpCollector do
  @moduledoc """
  Runs the stand-in for a collector of OpenTelemetry that pytest uses too, `tests/otlp_collector.py`.
  """

  alias DSPex.LoopbackServer

  @doc """
  Starts the collector under the test's supervisor and returns its address.
  """
  def start!, do: LoopbackServer.start!("otlp_collector.py")

  @doc """
  Returns all spans that have come, in the order in which they came.
  """
  def spans(url) do
    {:ok, spans} = url |> LoopbackServer.request("GET /spans") |> DSPex.Python.JSON.decode()
    spans
  end

  @doc """
  Returns all bytes that have come.
  """
  def bytes(url), do: LoopbackServer.request(url, "GET /bytes")
end
