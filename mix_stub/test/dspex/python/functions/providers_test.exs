defmodule DSPex.Python.Functions.ProvidersTest do
  use ExUnit.Case, async: true
  doctest DSPex.Python.Functions.Providers

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Functions.{ModelOptions, Providers}

  @meant Path.expand("../../../../../conformance/providers.tsv", __DIR__)

  test "are those of Python" do
    assert {:error, %Error{kind: :provider} = error} = Python.configure_lm(:nonesuch)
    assert [_before, names] = String.split(error.message, "known providers: ")
    assert Enum.sort(Providers.names()) == names |> String.split(", ") |> Enum.sort()
  end

  test "another name is told which may be meant, as by Python" do
    # `:google` and `:local` had no hint, and `:vllm` meant "ollama".
    for line <- @meant |> File.read!() |> String.split("\n", trim: true),
        not String.starts_with?(line, "#") do
      [name, meant] = String.split(line, "\t")
      meant = meant |> String.split(",") |> Enum.map_join(" or ", &inspect/1)

      for model <- [name, {name, model: "m"}, {:openai, model: "m", fallbacks: [{name, []}]}] do
        assert {:error, %Error{kind: :provider, message: message}} = ModelOptions.check(model)

        assert message =~
                 "unknown provider #{inspect(name)} (did you mean #{meant}?); write a model"
      end
    end
  end

  test "a provider that there is not is the error of start_pool/2" do
    # It was `{:ok, pid}` first, and a warning in the log.
    for {model, message} <- [
          {:opnai, ~S|unknown provider "opnai" (did you mean "openai"?); write a model as in {|},
          {{:opnai, model: "m"}, ~S|(did you mean "openai"?)|},
          {{"opnai", %{"model" => "m"}}, ~S|(did you mean "openai"?)|},
          {"opnai/gpt-4o", ~S|(did you mean "openai"?)|},
          {{:openai, model: "m", fallbacks: [:embedded, {:anthropc, model: "m"}]},
           ~S|(did you mean "anthropic"?)|},
          {{:openai, %{"fallbacks" => ["groc/m"]}}, ~S|(did you mean "groq"?)|}
        ] do
      assert {:error, %Error{kind: :provider} = error} =
               Python.start_pool(:no_provider, python: interpreter(), model: model)

      assert error.message =~ message
      assert error.message =~ "(the option :model of pool :no_provider)"
      assert {:error, %Error{kind: :pool_not_found}} = Python.stop_pool(:no_provider)
    end

    # It may be a key.
    assert {:error, %Error{message: message}} =
             Python.start_pool(:no_provider, python: interpreter(), model: "sk-ant-0123456789")

    refute message =~ "0123"
  end
end
