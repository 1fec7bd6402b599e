// adapter_probe MODEL ADAPTER CASE.json: computes a text with the adapter's layers in f64 and
// prints one JSON object, for comparison with an independent implementation. CASE.json holds
// "tokens", "targets" (−1: none) and "loss_mode".
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "engine/adapter/adapter_file.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/training/student.h"
#include "nlohmann/json.hpp"

namespace kascade::training {
namespace {

using Json = nlohmann::json;

// The value, or the end of the program with its error.
template <typename T>
T value_or_exit(absl::StatusOr<T> result) {
  if (result.ok()) return *std::move(result);
  std::fprintf(stderr, "adapter_probe: %s\n", std::string(result.status().message()).c_str());
  std::exit(1);
}

Json rows_as_json(const Rows<double>& rows) {
  Json result = Json::array();
  for (int64_t r = 0; r < rows.rows; ++r) {
    result.push_back(std::vector<double>(rows.row(r), rows.row(r) + rows.cols));
  }
  return result;
}

void run(const std::string& model, const std::string& adapter_folder, const Json& request) {
  const ModelConfig config = value_or_exit(load_config(model));
  const Checkpoint checkpoint = value_or_exit(open_checkpoint(model, config));
  const Adapter adapter = value_or_exit(load_adapter(adapter_folder));
  const auto products = make_plain_products();
  const Student<double> student(config, checkpoint, adapter.options, *products);
  const std::vector<double> parameters(adapter.parameters.begin(), adapter.parameters.end());
  const auto tokens = request.at("tokens").get<std::vector<int32_t>>();
  const auto targets = request.at("targets").get<std::vector<int32_t>>();
  const LossSettings loss = value_or_exit(loss_named(request.at("loss_mode").get<std::string>()));

  const Stream<double> dense = student.dense_stream(tokens);
  Json stream = Json::array();
  for (const Rows<double>& rows : student.adapted_stream(tokens, parameters.data())) {
    stream.push_back(rows_as_json(rows));
  }
  Json layer_losses = Json::array();
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    layer_losses.push_back(student.layer_loss(
        layer, dense[layer], parameters.data() + layer * student.layer_size(), nullptr));
  }
  const TextLoss losses =
      student.text_loss(tokens, dense, targets, loss, parameters.data(), nullptr);
  const Json result = {{"stream", stream},
                       {"layer_losses", layer_losses},
                       {"losses",
                        {{"loss", losses.loss},
                         {"hidden", losses.hidden},
                         {"divergence", losses.divergence},
                         {"cross_entropy", losses.cross_entropy}}}};
  std::printf("%s\n", result.dump().c_str());
}

}  // namespace
}  // namespace kascade::training

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: adapter_probe MODEL ADAPTER CASE.json\n");
    return 2;
  }
  std::ifstream file(argv[3]);
  kascade::training::run(argv[1], argv[2], nlohmann::json::parse(file));
  return 0;
}
