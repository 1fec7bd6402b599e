// Writes folders with small random models, for tests of everything above the checkpoint reader. A
// folder is a complete Hugging Face folder: config.json, generation_config.json, model.safetensors
// (or shards and their index) and tokenizer.json.
//
//   TempDir dir;
//   write_tiny_model({.layers = 4, .dtype = DType::kBF16}, dir.path());
//
// The values of a tensor depend only on `seed`, its name and its size. Therefore models that differ
// only in dtype, sharding, dtype of the norms or location of the tied table are roundings of the
// same model, and models of different families have the same matrices.
#ifndef KASCADE_TESTS_SUPPORT_TINY_MODEL_H_
#define KASCADE_TESTS_SUPPORT_TINY_MODEL_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/backend/tensor.h"
#include "engine/model/config.h"
#include "nlohmann/json.hpp"

namespace kascade::testing {

// The tokenizer is byte-level BPE: ids 0–255 are the bytes, then follow these special tokens, then
// the merges "th", "the", " the", "in", "er", "on". Encoding adds BOS at the start.
constexpr int32_t kTinyBos = 256;           // "<|bos|>"
constexpr int32_t kTinyEos = 257;           // "<|eos|>"
constexpr int32_t kTinyTokenizerIds = 264;  // number of ids of the tokenizer

enum class TinyTable { kEmbedding, kHead, kBoth };  // name under which a tied table is stored

struct TinyModel {
  std::string model_type = "llama";  // a family of engine/model/families
  bool biases = false;               // attention_bias; of llama and qwen3
  int32_t sliding_window = 0;        // of mistral and phi3; 0: null
  int32_t layers = 2;
  int32_t hidden = 32;
  int32_t intermediate = 64;
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 8;
  int32_t context = 512;
  // at least kTinyTokenizerIds if the folder's tokenizer is used
  int32_t vocab = kTinyTokenizerIds;
  bool tied = false;
  TinyTable table = TinyTable::kEmbedding;  // used only if tied
  DType dtype = DType::kF32;                // kF32, kBF16, kF16 or kQ8_0
  bool f32_norms = false;                   // norms are f32 whatever `dtype` is
  uint64_t seed = 1;
  bool peaked = false;  // larger query and key weights, so that attention concentrates on few keys
  int shards = 1;       // if > 1, the number of files, with an index
  double rope_theta = 10000;
  std::optional<Llama3RopeScaling> rope_scaling{};
  std::vector<int32_t> eos_tokens = {kTinyEos};
};

// Writes the model to `directory`, which is created if needed, and returns `directory`.
std::filesystem::path write_tiny_model(const TinyModel& model,
                                       const std::filesystem::path& directory);

// Parts of the folder, for tests that damage one of them.
nlohmann::json tiny_config(const TinyModel& model);
nlohmann::json tiny_tokenizer();

struct RawTensor {
  std::string name;
  std::string dtype;  // the dtype as safetensors spells it
  std::vector<int64_t> shape;
  std::string bytes;
};
std::vector<RawTensor> tiny_tensors(const TinyModel& model);

// Returns a safetensors file with `tensors` in the given order.
std::string safetensors_bytes(const std::vector<RawTensor>& tensors);
// Returns a safetensors file made of `header` and `data` without any checks.
std::string safetensors_bytes(std::string_view header, std::string_view data);

void write_file(const std::filesystem::path& path, std::string_view content);

// A new directory that is removed with its contents when the object is destroyed.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_TINY_MODEL_H_
