defmodule DSPex.Python.Port.KeyedOptions do
  @moduledoc false

  # Reads the options of a pool that are keyword lists with keys of their own: `:heartbeat` and `:otlp`. Each error is a sentence that
  # names the key and what it takes, without its end, the name of the pool.

  alias DSPex.Python.Port.Heartbeat
  alias DSPex.Python.Wire.{Keywords, Timeout}
  alias DSPex.Suggestion

  # A longer timer would crash its process.
  @max_ms Timeout.max_ms()
  # The limit is far longer than real C code holds the GIL, and than a machine under load lets a process wait. A process that is
  # stopped waits for neither.
  @heartbeat [interval: 5_000, limit: 30_000, stopped: 1_000]
  @otlp [endpoint: true, content: :metadata]
  @address ~S|an address such as "http://localhost:4318"|

  @type otlp :: %{endpoint: true | String.t(), content: :metadata | :full}

  @doc """
  Reads the option `:heartbeat`: `false`, or some of its keys.
  """
  @spec heartbeat(term()) :: {:ok, false | Heartbeat.options()} | {:error, String.t()}
  def heartbeat(false), do: {:ok, false}

  def heartbeat(given) do
    if Keyword.keyword?(given) do
      with {:ok, heartbeat} <- merged(given, @heartbeat, "heartbeat"),
           :ok <- check_interval(heartbeat),
           :ok <- check_limit(heartbeat, Keyword.has_key?(given, :limit)),
           :ok <- check_stopped(heartbeat),
           do: {:ok, heartbeat}
    else
      {:error,
       "expected false or [interval: ms, limit: ms, stopped: ms or false], got #{inspect(given)}"}
    end
  end

  defp check_interval(%{interval: interval}) when interval in 1..@max_ms, do: :ok

  defp check_interval(%{interval: interval}),
    do: {:error, "expected 1 to #{@max_ms} ms at heartbeat.interval, got #{inspect(interval)}"}

  defp check_limit(%{interval: interval, limit: limit}, _given?)
       when limit in interval..@max_ms//1,
       do: :ok

  defp check_limit(%{interval: interval, limit: limit}, given?) do
    range = "#{interval} (the interval) to #{@max_ms} ms"

    if given?,
      do: {:error, "expected #{range} at heartbeat.limit, got #{inspect(limit)}"},
      else:
        {:error, "expected a limit too, #{range}, at heartbeat.limit, got its default, #{limit}"}
  end

  defp check_stopped(%{stopped: stopped}) when stopped == false or stopped in 1..@max_ms, do: :ok

  defp check_stopped(%{stopped: stopped}),
    do:
      {:error,
       "expected 1 to #{@max_ms} ms, or false, at heartbeat.stopped, got #{inspect(stopped)}"}

  @doc """
  Reads the option `:otlp`: `false`, `true`, an address, or some of its keys; `nil` for `false`. The error shows no value, which may
  have a password.
  """
  @spec otlp(term()) :: {:ok, otlp() | nil} | {:error, String.t()}
  def otlp(false), do: {:ok, nil}

  def otlp(endpoint) when endpoint == true or is_binary(endpoint),
    do: otlp(endpoint: endpoint)

  def otlp(given) do
    if Keyword.keyword?(given) do
      with {:ok, otlp} <- merged(given, @otlp, "otlp"), do: check_otlp(otlp)
    else
      {:error, "expected false, true, #{@address}, or [endpoint: address, content: :full]"}
    end
  end

  defp check_otlp(%{endpoint: endpoint, content: content} = otlp) do
    cond do
      not address?(endpoint) -> {:error, "expected #{@address}, or true, at otlp.endpoint"}
      content not in [:metadata, :full] -> {:error, "expected :metadata or :full at otlp.content"}
      true -> {:ok, otlp}
    end
  end

  defp address?(true), do: true

  defp address?(text) when is_binary(text) do
    uri = URI.parse(text)
    uri.scheme in ["http", "https"] and uri.host not in [nil, ""]
  end

  defp address?(_other), do: false

  # The keys that were given, with the defaults of the others.
  defp merged(given, defaults, path) do
    known = Keyword.keys(defaults)

    with nil <- Keywords.repeated(given, path),
         nil <- Enum.find(Keyword.keys(given), &(&1 not in known)) do
      {:ok, defaults |> Keyword.merge(given) |> Map.new()}
    else
      repeated when is_binary(repeated) ->
        {:error, repeated}

      unknown ->
        {:error,
         "unknown key #{inspect(unknown)} at #{path}#{Suggestion.hint(unknown, known)}; known are " <>
           Enum.map_join(known, ", ", &inspect/1)}
    end
  end
end
