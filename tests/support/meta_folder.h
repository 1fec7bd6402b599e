// Writes the models of tiny_model.h as folders in Meta's format, for tests of their readers.
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
  bool embedding_by_columns = false;  // splits the embedding by columns, as in Llama 2
  nlohmann::json params{};            // null means meta_params(model)
  TorchForm form{};
  // Modifies the tensors of a shard before they are written.
  std::function<void(int shard, std::vector<RawTensor>&)> edit{};
};

// Returns the params.json of `model`. Its MLP must have the width that a multiplier of 0.75 and
// multiples of 64 give, as the default of tiny_model.h has.
nlohmann::json meta_params(const TinyModel& model);

// Returns the model's tensors with Meta's names and row order.
std::vector<RawTensor> meta_tensors(const TinyModel& model);

// Writes params.json and consolidated.NN.pth.
std::filesystem::path write_meta_folder(const TinyModel& model, const MetaFolder& folder,
                                        const std::filesystem::path& directory);

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_META_FOLDER_H_
