// A checkpoint of any format that kascade-convert reads, presented as the Hugging Face model that
// it is converted to: names, shapes and row order (half-split rotary layout) are those of Hugging
// Face. No part of tools/convert is linked into the server.
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
  std::string name{};  // the Hugging Face name: "model.layers.0.self_attn.q_proj.weight"
  // Of the bytes that read() writes: f32, bf16, f16 or, for a matrix, one with blocks.
  DType dtype = DType::kF32;
  std::vector<int64_t> shape{};  // row-major; one or two dimensions

  int64_t elements() const;
  int64_t cols() const { return shape.back(); }
  int64_t row_bytes() const { return row_elements(dtype, cols()) * size_of(dtype); }
  int64_t bytes() const { return elements() / cols() * row_bytes(); }
};

// A file of the destination that holds no tensors: tokenizer.json, tokenizer.model,
// generation_config.json … Its content is either a text or the copy of a file.
struct SideFile {
  std::string name{};  // file name in the destination
  std::string content{};
  std::filesystem::path copy_of{};  // if not empty, the file to copy
};

struct SourceOptions {
  // replaces the rope factor that the source states or implies
  std::optional<double> rope_factor{};
};

class Source {
 public:
  virtual ~Source() = default;

  // A description for users: "Meta (2 model-parallel shards)", "GGUF v3, Q8_0".
  virtual std::string family() const = 0;
  virtual const ModelConfig& config() const = 0;
  // In the order of layers; a tied head is not listed.
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  // Writes tensors()[index] into `target` (which has exactly its bytes()), row-major and
  // little-endian. Allocates no more additional memory than the size of one tensor.
  virtual absl::Status read(size_t index, std::span<std::byte> target) = 0;
  virtual std::vector<SideFile> side_files() const = 0;
  // The files that were read, for the digests in conversion.json.
  virtual std::vector<std::filesystem::path> inputs() const = 0;
  // The choices that the reader made where the source is ambiguous, one sentence each: "rope factor
  // 32: 16 layers (a Llama 3.2 size)".
  virtual std::vector<std::string> decisions() const = 0;
  // The config.json of the source, which is passed on with its dtype entry replaced. If it is
  // empty, config.json is written from config().
  virtual std::string config_json() const { return {}; }
};

// Recognises the format of `path` (a folder or a file) by its content and opens it. NOT_FOUND,
// INVALID_ARGUMENT for a damaged source, UNIMPLEMENTED for a known format or feature that is not
// supported; each names the file, the field, the expected and the actual value.
absl::StatusOr<std::unique_ptr<Source>> open_source(const std::filesystem::path& path,
                                                    const SourceOptions& options);

// The readers of each format. A reader is called after its format was recognised, and checks
// everything itself.
// Opens a folder with params.json and consolidated*.pth.
absl::StatusOr<std::unique_ptr<Source>> open_meta(const std::filesystem::path& folder,
                                                  const SourceOptions& options);
// Opens a folder with config.json and *.safetensors.
absl::StatusOr<std::unique_ptr<Source>> open_hugging_face(const std::filesystem::path& folder,
                                                          const SourceOptions& options);
// Opens a folder with config.json and pytorch_model*.bin.
absl::StatusOr<std::unique_ptr<Source>> open_hugging_face_bin(const std::filesystem::path& folder,
                                                              const SourceOptions& options);
// Opens a llama2.c file, version 0, 1 or 2. Its tokenizer (tokenizer.bin, tokenizer.model, tok*.bin
// or tok*.model) must be in the same folder.
absl::StatusOr<std::unique_ptr<Source>> open_llama2c(const std::filesystem::path& file,
                                                     const SourceOptions& options);
absl::StatusOr<std::unique_ptr<Source>> open_gguf(const std::filesystem::path& file,
                                                  const SourceOptions& options);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_SOURCE_H_
