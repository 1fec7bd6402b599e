// llama2.c's checkpoints, versions 0 (f32), 1 (f32) and 2 (int8 in groups), seen as a list of
// Hugging Face tensors over the file's bytes. Safe on hostile input.
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
  // `content` is the whole file and must outlive the result; `name` is for errors. UNIMPLEMENTED
  // for a version that we do not know, INVALID_ARGUMENT for anything that does not fit.
  static absl::StatusOr<Llama2cFile> parse(std::span<const std::byte> content,
                                           const std::string& name);

  int version() const { return version_; }
  const ModelConfig& config() const { return config_; }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }  // all f32
  void read(size_t index, std::span<std::byte> target) const;            // as Source::read

 private:
  // Where a tensor lies in the file.
  struct Place {
    int64_t begin = 0;             // byte
    int64_t group = 0;             // elements that share a scale; 0: the tensor is f32
    bool is_neighbouring = false;  // rows are in the other rotary layout
  };
  friend class Llama2cLayout;

  std::span<const std::byte> content_{};
  int version_ = 0;
  ModelConfig config_{};
  std::vector<SourceTensor> tensors_{};
  std::vector<Place> places_{};  // parallel to tensors_
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_LLAMA2C_FILE_H_
