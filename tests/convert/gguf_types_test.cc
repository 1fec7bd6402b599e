// Tests the numbers and names of GGUF's element types.
#include "tools/convert/gguf_types.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace kascade::convert {
namespace {

TEST(GgmlTypes, HaveTheNumbersOfTheFormat) {
  struct Number {
    uint32_t id;
    DType dtype;
    int64_t block_elements;
    int64_t block_bytes;
  };
  for (const Number& wanted :
       {Number{0, DType::kF32, 1, 4}, Number{1, DType::kF16, 1, 2}, Number{30, DType::kBF16, 1, 2},
        Number{2, DType::kQ4_0, 32, 18}, Number{3, DType::kQ4_1, 32, 20},
        Number{6, DType::kQ5_0, 32, 22}, Number{7, DType::kQ5_1, 32, 24},
        Number{8, DType::kQ8_0, 32, 34}, Number{12, DType::kQ4_K, 256, 144},
        Number{13, DType::kQ5_K, 256, 176}, Number{14, DType::kQ6_K, 256, 210}}) {
    const GgmlType* type = find_ggml_type(wanted.id);
    ASSERT_NE(type, nullptr) << wanted.id;
    EXPECT_EQ(type->dtype, wanted.dtype);
    EXPECT_EQ(type->block_elements(), wanted.block_elements);
    EXPECT_EQ(type->block_bytes(), wanted.block_bytes);
  }
}

TEST(GgmlTypes, HaveTheNamesOfTheFormat) {
  EXPECT_EQ(ggml_type_name(10), "Q2_K");
  EXPECT_EQ(ggml_type_name(23), "IQ4_XS");
  EXPECT_EQ(ggml_type_name(39), "MXFP4");
  EXPECT_EQ(ggml_type_name(1000), "type 1000");
  EXPECT_EQ(find_ggml_type(10), nullptr);
  std::set<std::string> names;
  for (uint32_t id = 0; id < 40; ++id) names.insert(ggml_type_name(id));
  EXPECT_EQ(names.size(), 40u);
}

}  // namespace
}  // namespace kascade::convert
