defmodule DSPex.ReadmeTest do
  # The Elixir blocks of the README run unchanged, one after the other.
  use ExUnit.Case, async: true

  @readme Path.expand("../../README.md", __DIR__)
  @external_resource @readme

  test "every Elixir block of the README runs" do
    blocks = Regex.scan(~r/```elixir\n(.*?)```/s, File.read!(@readme), capture: :all_but_first)
    # The blocks with the configuration are for config.exs.
    {config, calls} = Enum.split_with(List.flatten(blocks), &(&1 =~ "config :dspex"))
    assert [_one, _with_workers] = config
    assert length(calls) >= 2

    [first | _others] =
      all =
      Enum.scan([[] | calls], fn block, bindings ->
        {_value, bindings} = Code.eval_string(block, bindings, file: @readme)
        bindings
      end)
      |> tl()

    bindings = List.last(all)
    assert first[:prediction][:answer] =~ "green"
    assert %DSPex.Prediction{} = bindings[:result]
  end

  test "a pool takes the configuration of the README" do
    blocks =
      Regex.scan(~r/config :dspex, DSPex.Python,\n(.*?)```/s, File.read!(@readme),
        capture: :all_but_first
      )

    for [block] <- blocks,
        {options, _bindings} = Code.eval_string("[" <> block <> "]"),
        {name, pool} <- options[:pools] do
      assert %{id: {DSPex.Python.Pool, ^name}} =
               DSPex.Python.Pool.child_spec([name: name] ++ pool)
    end
  end
end
