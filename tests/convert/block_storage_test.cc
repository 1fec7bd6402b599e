// Tests what users are told of the blocks of a source: how many matrices of which type, and sizes.
#include "tools/convert/block_storage.h"

#include <filesystem>
#include <utility>

#include "gtest/gtest.h"

namespace kascade::convert {
namespace {

class FakeSource final : public Source {
 public:
  explicit FakeSource(std::vector<SourceTensor> tensors) : tensors_(std::move(tensors)) {}
  std::string family() const override { return "fake"; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  absl::Status read(size_t /*index*/, std::span<std::byte> /*target*/) override {
    return absl::OkStatus();
  }
  std::vector<SideFile> side_files() const override { return {}; }
  std::vector<std::filesystem::path> inputs() const override { return {}; }
  std::vector<std::string> decisions() const override { return {}; }

 private:
  ModelConfig config_{};
  std::vector<SourceTensor> tensors_;
};

TEST(BlockStorage, CountsMatricesAndBytes) {
  const FakeSource source({{"a", DType::kQ8_0, {2, 32}},
                           {"b", DType::kQ4_1, {2, 32}},
                           {"c", DType::kQ4_1, {4, 32}},
                           {"norm", DType::kF32, {32}}});
  const auto kept = block_storage(source, {});
  ASSERT_TRUE(kept.has_value());
  ASSERT_EQ(kept->matrices.size(), 2u);
  EXPECT_EQ(kept->matrices[0].dtype, DType::kQ4_1);
  EXPECT_EQ(kept->matrices[0].matrices, 2);
  EXPECT_EQ(kept->matrices[1].dtype, DType::kQ8_0);
  EXPECT_EQ(kept->matrices[1].matrices, 1);
  // Blocks of 32 inputs: 34 bytes of Q8_0, 20 of Q4_1.
  const int64_t matrix_bytes = 2 * 34 + 2 * 20 + 4 * 20;
  EXPECT_DOUBLE_EQ(kept->bits_per_weight, 8.0 * matrix_bytes / (8 * 32));
  EXPECT_EQ(kept->source_bytes, matrix_bytes + 32 * 4);
  EXPECT_EQ(kept->output_bytes, kept->source_bytes);
  const auto bf16 = block_storage(source, {.dtype = DType::kBF16});
  EXPECT_EQ(bf16->source_bytes, kept->source_bytes);
  EXPECT_EQ(bf16->output_bytes, 2 * (8 * 32 + 32));
}

TEST(BlockStorage, IsOfSourcesWithBlocksAlone) {
  EXPECT_FALSE(block_storage(FakeSource({{"a", DType::kF16, {2, 32}}}), {}).has_value());
}

}  // namespace
}  // namespace kascade::convert
