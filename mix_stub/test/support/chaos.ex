defmodule DSPex.Chaos do
  @moduledoc """
  What tests need that break things at random: how often, when, and what has been left behind.

  `CHAOS_ROUNDS` says how often (`make chaos` does it 200 times), `CHAOS_SEED` repeats a run.
  """

  alias DSPex.Python.Callbacks

  @doc """
  How often a thing is done: `CHAOS_ROUNDS` times `each`, or `otherwise`.
  """
  def rounds(otherwise, each \\ 1) do
    case System.get_env("CHAOS_ROUNDS") do
      nil -> otherwise
      rounds -> String.to_integer(rounds) * each
    end
  end

  @doc """
  Seeds the random numbers of the calling process, and gives the seed for the message of a failure.
  """
  def seed! do
    seed =
      case System.get_env("CHAOS_SEED") do
        nil -> :rand.uniform(1_000_000)
        seed -> String.to_integer(seed)
      end

    :rand.seed(:exsss, seed)
    "CHAOS_SEED=#{seed}"
  end

  @doc """
  The operating system's processes that have `marker` in their environment, and are more than names.
  """
  def marked(marker) do
    for folder <- Path.wildcard("/proc/[0-9]*"),
        # It may have ended meanwhile, and one that waits to be buried has no environment any more.
        {:ok, environment} <- [File.read(Path.join(folder, "environ"))],
        String.contains?(environment, marker),
        do: Path.basename(folder)
  end

  @doc """
  Counts what could be left behind on this node.
  """
  def counts do
    :erlang.garbage_collect()

    %{
      processes: length(Process.list()),
      ports: length(Port.list()),
      tables: length(:ets.all()),
      atoms: :erlang.system_info(:atom_count),
      functions: Callbacks.count().registered,
      invocations: Callbacks.count().running
    }
  end

  # The same once nothing changes any more: what has just ended may still be counted, or be counted no more at once.
  def settled_counts(last \\ counts()) do
    Process.sleep(200)
    now = counts()
    if Map.delete(now, :atoms) == Map.delete(last, :atoms), do: now, else: settled_counts(now)
  end

  # Whether there is no more of anything than before; some atoms are made once.
  def nothing_left?(before) do
    {atoms, now} = Map.pop!(counts(), :atoms)
    atoms - before.atoms < 20 and Enum.all?(now, fn {what, count} -> count <= before[what] end)
  end
end
