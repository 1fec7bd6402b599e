#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/file.h"
#include "tools/convert/llama2c_file.h"
#include "tools/convert/llama2c_tokenizer.h"
#include "tools/convert/model_sizes.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

class Llama2cSource final : public Source {
 public:
  Llama2cSource(std::filesystem::path path, MappedFile mapping, Llama2cFile file,
                Llama2cTokenizer tokenizer, ModelConfig config)
      : path_(std::move(path)),
        mapping_(std::move(mapping)),
        file_(std::move(file)),
        tokenizer_(std::move(tokenizer)),
        config_(std::move(config)) {}

  std::string family() const override {
    return absl::StrCat("llama2.c version ", file_.version(),
                        file_.version() == 2 ? ", Q8_0" : ", f32");
  }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return file_.tensors(); }
  absl::Status read(size_t index, std::span<std::byte> target) override {
    file_.read(index, target);
    return absl::OkStatus();
  }
  std::vector<SideFile> side_files() const override { return {tokenizer_.side_file}; }
  std::vector<std::filesystem::path> inputs() const override { return {path_, tokenizer_.file}; }
  std::vector<std::string> decisions() const override {
    return {
        absl::StrCat("rope theta ", config_.rope_theta, ", norm epsilon ", config_.norm_eps,
                     ", BOS 1 and EOS 2: llama2.c's own, its files do not store them"),
        absl::StrCat("tokenizer ", tokenizer_.file.filename().string(), ": it has the model's ",
                     config_.vocab, " pieces"),
    };
  }

 private:
  std::filesystem::path path_;
  MappedFile mapping_;
  Llama2cFile file_;
  Llama2cTokenizer tokenizer_;
  ModelConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> open_llama2c(const std::filesystem::path& file,
                                                     const SourceOptions& options) {
  auto mapping = MappedFile::open(file);
  if (!mapping.ok()) return mapping.status();
  auto parsed =
      Llama2cFile::parse({mapping->data(), static_cast<size_t>(mapping->bytes())}, file.string());
  if (!parsed.ok()) return parsed.status();
  ModelConfig config = parsed->config();
  config.name = file.stem().string();
  if (auto status = apply_rope_factor(options, config); !status.ok()) return status;
  auto tokenizer = find_llama2c_tokenizer(file.parent_path(), config.vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  return std::make_unique<Llama2cSource>(file, *std::move(mapping), *std::move(parsed),
                                         *std::move(tokenizer), std::move(config));
}

}  // namespace kascade::convert
