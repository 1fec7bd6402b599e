// Reads checkpoints of llama2.c, versions 0 (f32), 1 (f32) and 2 (int8 in groups), and presents
// them as a list of tensors with Hugging Face names. Safe on hostile input.
#ifndef KASCADE_TOOLS_CONVERT_LLAMA2C_FILE_H_
#define KASCADE_TOOLS_CONVERT_LLAMA2C_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "tools/convert/source.h"

namespace kascade::convert {

class Llama2cFile {
 public:
  // Parses `content`, which is the whole file and must outlive the result. `name` is used in
  // errors. UNIMPLEMENTED for an unknown version, INVALID_ARGUMENT for anything inconsistent.
  static absl::StatusOr<Llama2cFile> parse(std::span<const std::byte> content,
                                           const std::string& name);

  int version() const { return version_; }
  const ModelConfig& config() const { return config_; }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }  // all are f32
  void read(size_t index, std::span<std::byte> target) const;            // like Source::read

 private:
  // The position of a tensor in the file.
  struct Place {
    int64_t begin = 0;             // offset in bytes
    int64_t group = 0;             // number of elements that share a scale; 0 if the tensor is f32
    bool is_neighbouring = false;  // rows are in the neighbouring rotary layout (rope_layout.h)
  };
  friend class Llama2cLayout;

  std::span<const std::byte> content_{};
  int version_ = 0;
  ModelConfig config_{};
  std::vector<SourceTensor> tensors_{};
  std::vector<Place> places_{};  // [tensors_]
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_LLAMA2C_FILE_H_
