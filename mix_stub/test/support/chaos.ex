defmodule DSPex.Chaos do
  @moduledoc """
  Helps tests that break things at random: number of rounds, random seed, and counts of what is left behind.

  `CHAOS_ROUNDS` is the number of rounds (200 in `make chaos`), `CHAOS_SEED` repeats a run.
  """

  alias DSPex.Python.Callbacks

  @doc """
  Returns the number of rounds: `CHAOS_ROUNDS` times `each`, or `otherwise`.
  """
  def rounds(otherwise, each \\ 1) do
    case System.get_env("CHAOS_ROUNDS") do
      nil -> otherwise
      rounds -> String.to_integer(rounds) * each
    end
  end

  @doc """
  Seeds the random numbers of the calling process, and returns the random seed for the message of a failure.
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
  Returns the operating system's processes with `marker` in their environment, except zombies.
  """
  def marked(marker) do
    for folder <- Path.wildcard("/proc/[0-9]*"),
        # The process may have ended by now. A zombie has no environment.
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

  # Counts until nothing changes any more: a process that has just ended may still be counted.
  def settled_counts(last \\ counts()) do
    Process.sleep(200)
    now = counts()
    if Map.delete(now, :atoms) == Map.delete(last, :atoms), do: now, else: settled_counts(now)
  end

  # Tells whether no count has grown; some atoms are made only once.
  def nothing_left?(before) do
    {atoms, now} = Map.pop!(counts(), :atoms)
    atoms - before.atoms < 20 and Enum.all?(now, fn {what, count} -> count <= before[what] end)
  end
end
