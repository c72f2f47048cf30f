[inputs: ["{mix,.formatter,.iex}.exs", "{config,lib,test}/**/*.{ex,exs}", "../examples/*.exs"]]
