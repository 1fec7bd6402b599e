// Folders in Meta's layout of the models of tiny_model.h, for tests of what reads them.
#ifndef KASCADE_TESTS_SUPPORT_META_FOLDER_H_
#define KASCADE_TESTS_SUPPORT_META_FOLDER_H_

#include <filesystem>
#include <functional>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/tiny_model.h"
#include "tests/support/torch_writer.h"

namespace kascade::testing {

struct MetaFolder {
  int shards = 1;
  bool embedding_by_columns = false;  // how several shards divide it (Llama 2)
  nlohmann::json params{};            // null = meta_params(model)
  TorchForm form{};
  // Changes the tensors of a shard before they are written.
  std::function<void(int shard, std::vector<RawTensor>&)> edit{};
};

// params.json of `model`, whose MLP must be as wide as a multiplier of 0.75 and multiples of 64
// make it (tiny_model.h's default is).
nlohmann::json meta_params(const TinyModel& model);

// The model's tensors in Meta's names and row order.
std::vector<RawTensor> meta_tensors(const TinyModel& model);

// Writes params.json and consolidated.NN.pth.
std::filesystem::path write_meta_folder(const TinyModel& model, const MetaFolder& folder,
                                        const std::filesystem::path& directory);

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_META_FOLDER_H_
