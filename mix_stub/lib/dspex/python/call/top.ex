defmodule DSPex.Python.Call.Top do
  @moduledoc false

  # Shows pools and running calls in a terminal, refreshed in place, until a line is entered.

  alias DSPex.Python.Call.Overview
  alias DSPex.Python.Wire.Keywords
  alias DSPex.Suggestion

  @known [:interval, :pools, :frames]
  @default_rows 40
  @default_columns 120
  # Title, rates, empty lines and the table of workers stand above the calls.
  @least_calls 3

  @doc """
  Shows until a line is entered, or the input ends, or so many frames were shown.
  """
  @spec run(keyword()) :: :ok
  def run(options) do
    if not Keyword.keyword?(options) do
      raise ArgumentError, "expected options as a keyword list, got #{inspect(options)}"
    end

    for {name, _value} <- options, name not in @known do
      raise ArgumentError,
            "unknown option #{inspect(name)} of top/1#{Suggestion.hint(name, @known)}"
    end

    if message = Keywords.repeated(options, "the options of top/1"),
      do: raise(ArgumentError, message)

    interval = Keyword.get(options, :interval, 1_000)
    frames = Keyword.get(options, :frames, :infinity)

    if not (is_integer(interval) and interval > 0) do
      raise ArgumentError, "expected :interval in ms, 1 or more, got #{inspect(interval)}"
    end

    if not (frames == :infinity or (is_integer(frames) and frames >= 0)) do
      raise ArgumentError,
            "expected :frames to be a number, 0 or more, or :infinity, got #{inspect(frames)}"
    end

    pools = Overview.pools!(Keyword.get(options, :pools, :all))

    # Linked, so that it does not go on reading the input when this process ends.
    reader = if frames == :infinity, do: Task.async(fn -> IO.gets("") end)
    show(reader, pools, interval, frames, nil)
  end

  defp show(_reader, _pools, _interval, 0, _before), do: :ok

  defp show(reader, pools, interval, frames, before) do
    now = Overview.take(pools)
    IO.write(frame(now, before))

    if ended?(reader, interval),
      do: :ok,
      else: show(reader, pools, interval, left(frames), now)
  end

  defp ended?(nil, interval) do
    Process.sleep(interval)
    false
  end

  defp ended?(reader, interval), do: Task.yield(reader, interval) != nil

  defp left(:infinity), do: :infinity
  defp left(frames), do: frames - 1

  defp frame(now, before) do
    rows = size(&:io.rows/0, @default_rows)
    columns = size(&:io.columns/0, @default_columns)
    workers = Overview.table(now)
    head = [title(now, Overview.rates(now, before)), "" | workers] ++ [""]
    calls = Overview.calls(now, max(rows - length(head) - 4, @least_calls))

    lines =
      for line <- head ++ calls ++ ["", "q and Enter, or Enter, ends this"],
          do: [String.slice(line, 0, columns - 1), "\n"]

    # From the top left, over what was there.
    if IO.ANSI.enabled?(), do: [IO.ANSI.home(), IO.ANSI.clear(), lines], else: [lines, "\n"]
  end

  defp title(now, rates) do
    calls = for pool <- now.pools, worker <- pool.workers, do: worker.in_flight
    time = Time.utc_now() |> Time.truncate(:second) |> Time.to_iso8601()
    "#{time} UTC  pools #{length(now.pools)}  calls #{Enum.sum(calls)}  #{rate(rates)}"
  end

  defp rate(nil), do: "tokens/s -  $/h -  errors/min -"

  defp rate(rates) do
    "tokens/s #{round(rates.tokens)}  $/h #{:erlang.float_to_binary(rates.cost, decimals: 4)}  " <>
      "errors/min #{round(rates.errors)}"
  end

  defp size(ask, default) do
    case ask.() do
      {:ok, number} -> number
      {:error, _no_terminal} -> default
    end
  end
end
