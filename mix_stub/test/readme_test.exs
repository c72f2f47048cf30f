defmodule DSPex.ReadmeTest do
  # The Elixir blocks of the README run unchanged, one after the other.
  use ExUnit.Case, async: true

  @readme Path.expand("../../README.md", __DIR__)
  @external_resource @readme

  test "every Elixir block of the README runs" do
    blocks = Regex.scan(~r/```elixir\n(.*?)```/s, File.read!(@readme), capture: :all_but_first)
    # The block with the configuration is for config.exs.
    {config, calls} = Enum.split_with(List.flatten(blocks), &(&1 =~ "config :dspex"))
    assert [_one] = config
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
    [block] =
      Regex.run(~r/config :dspex, DSPex.Python,\n(.*?)```/s, File.read!(@readme),
        capture: :all_but_first
      )

    {options, _bindings} = Code.eval_string("[" <> block <> "]")

    for {name, pool} <- options[:pools] do
      assert %{id: {DSPex.Python.Pool, ^name}} =
               DSPex.Python.Pool.child_spec([name: name] ++ pool)
    end
  end
end
