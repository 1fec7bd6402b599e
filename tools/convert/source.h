// A checkpoint of any kind that kascade-convert reads, seen as the Hugging Face model that it will
// become: names, shapes and row order are Hugging Face's (half-split rotary layout) already.
// Nothing of tools/convert is linked into the server.
#ifndef KASCADE_TOOLS_CONVERT_SOURCE_H_
#define KASCADE_TOOLS_CONVERT_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"
#include "engine/model/config.h"

namespace kascade::convert {

struct SourceTensor {
  std::string name{};            // Hugging Face: "model.layers.0.self_attn.q_proj.weight"
  DType dtype = DType::kF32;     // of the bytes that read() gives: f32, bf16 or f16
  std::vector<int64_t> shape{};  // row-major; one or two dimensions

  int64_t elements() const;
  int64_t bytes() const { return elements() * size_of(dtype); }
};

// A file of the destination that is no tensor: tokenizer.json, tokenizer.model,
// generation_config.json … Either a text or a copy.
struct SideFile {
  std::string name{};  // in the destination
  std::string content{};
  std::filesystem::path copy_of{};  // used when not empty
};

struct SourceOptions {
  std::optional<double> rope_factor{};  // instead of what the source says or the rule gives
};

class Source {
 public:
  virtual ~Source() = default;

  // For people: "Meta (2 model-parallel shards)", "GGUF v3, Q8_0".
  virtual std::string family() const = 0;
  virtual const ModelConfig& config() const = 0;
  // In order of layers; a tied head is not listed.
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  // Writes tensors()[index] into `target` (exactly its bytes()), row-major and little-endian.
  // Allocates no more than one tensor's size beside it.
  virtual absl::Status read(size_t index, std::span<std::byte> target) = 0;
  virtual std::vector<SideFile> side_files() const = 0;
  // Files read, for the digests of conversion.json.
  virtual std::vector<std::filesystem::path> inputs() const = 0;
  // What was chosen where the source leaves a choice, one sentence each: "rope factor 32: 16
  // layers (a Llama 3.2 size)".
  virtual std::vector<std::string> decisions() const = 0;
  // A config.json to pass through, for sources that have one (its dtype entry is replaced); empty =
  // made from config().
  virtual std::string config_json() const { return {}; }
};

// Recognises `path` (a folder or a file) by its content and opens it. NOT_FOUND, INVALID_ARGUMENT
// for a damaged source, UNIMPLEMENTED for a format or a feature that is known and not read, each
// with file, field, expected and found.
absl::StatusOr<std::unique_ptr<Source>> open_source(const std::filesystem::path& path,
                                                    const SourceOptions& options);

// The readers. Each is given what it was recognised as and verifies everything itself.
// A folder with params.json and consolidated*.pth.
absl::StatusOr<std::unique_ptr<Source>> open_meta(const std::filesystem::path& folder,
                                                  const SourceOptions& options);
// A folder with config.json and *.safetensors.
absl::StatusOr<std::unique_ptr<Source>> open_hugging_face(const std::filesystem::path& folder,
                                                          const SourceOptions& options);
// A folder with config.json and pytorch_model*.bin.
absl::StatusOr<std::unique_ptr<Source>> open_hugging_face_bin(const std::filesystem::path& folder,
                                                              const SourceOptions& options);
// A llama2.c file, version 0, 1 or 2; the tokenizer (tokenizer.bin, tokenizer.model, tok*.bin or
// tok*.model) lies beside it.
absl::StatusOr<std::unique_ptr<Source>> open_llama2c(const std::filesystem::path& file,
                                                     const SourceOptions& options);
absl::StatusOr<std::unique_ptr<Source>> open_gguf(const std::filesystem::path& file,
                                                  const SourceOptions& options);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_SOURCE_H_
