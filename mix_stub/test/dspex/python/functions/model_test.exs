defmodule DSPex.Python.Functions.ModelTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Functions.Model

  test "returns the provider and its options" do
    assert Model.resolve(:embedded, nil) == {:ok, {:embedded, %{}}, []}
    assert Model.resolve({:openai, model: "m"}, nil) == {:ok, {:openai, %{model: "m"}}, []}

    assert Model.resolve({"openai", %{"model" => "m"}}, nil) ==
             {:ok, {"openai", %{"model" => "m"}}, []}
  end

  test "reads keys from the environment when the model is resolved" do
    variable = "DSPEX_TEST_KEY_#{System.unique_integer([:positive])}"
    model = {:openai, model: "m", api_key: {:system, variable}}
    assert {:error, error} = Model.resolve(model, nil)
    assert error.kind == :lm_not_configured

    assert error.message ==
             ~s|the environment variable "#{variable}" for api_key of the model :openai is not set|

    System.put_env(variable, "k")
    on_exit(fn -> System.delete_env(variable) end)
    assert Model.resolve(model, nil) == {:ok, {:openai, %{model: "m", api_key: "k"}}, []}
  end
end
