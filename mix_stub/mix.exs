defmodule DSPex.MixProject do
  use Mix.Project

  def project do
    [
      app: :dspex,
      version: "0.1.0",
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      description: "Call DSPy from Elixir over an Erlang port, with native terms",
      deps: deps()
    ]
  end

  def application do
    [mod: {DSPex.Application, []}, extra_applications: extra_applications(Mix.env())]
  end

  # The tests ask a browser's driver by HTTP. From OTP 26 on, `:httpc` calls `:public_key` also for http://; from Elixir
  # 1.15 on, only what is named here, and what that needs, can be called.
  defp extra_applications(:test), do: [:logger, :crypto, :inets, :ssl]
  defp extra_applications(_environment), do: [:logger, :crypto]

  # DSPex needs no dependency. It uses these when the application has them:
  #
  #     {:telemetry, "~> 1.0"}   # events of every call, see DSPex.Telemetry
  #     {:erlport, "~> 0.11"}    # only to call :dspy_bridge by :python.call/4 yourself
  defp deps, do: []

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_environment), do: ["lib"]
end
