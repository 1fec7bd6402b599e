// The folder of an adapter: the first line is adapter.json, the rest adapter.safetensors. What
// parses is written and read back as the same.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/adapter/adapter_file.h"
#include "engine/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kascade;
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\n'), size);
  const auto adapter =
      parse_adapter(input.substr(0, end), input.substr(std::min(end + 1, size)), "folder");
  if (!adapter.ok()) return 0;
  const LayerParameters layer = layer_parameters(adapter->shape, adapter->options);
  const auto again =
      parameters_from(parameters_file(adapter->parameters, layer, adapter->shape.layers), "file",
                      layer, adapter->shape.layers);
  KASCADE_CHECK(again.ok() && *again == adapter->parameters);
  const auto options =
      adapter_options_from(nlohmann::json::parse(to_json(adapter->options).dump()), "options");
  KASCADE_CHECK(options.ok() && *options == adapter->options);
  return 0;
}
