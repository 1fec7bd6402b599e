#include "tools/convert/gguf_types.h"

#include "absl/strings/str_cat.h"

namespace kascade::convert {
namespace {

constexpr GgmlType kTypes[] = {
    {0, "F32", DType::kF32},    {1, "F16", DType::kF16},    {30, "BF16", DType::kBF16},
    {8, "Q8_0", DType::kQ8_0},  {2, "Q4_0", DType::kQ4_0},  {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},  {7, "Q5_1", DType::kQ5_1},  {12, "Q4_K", DType::kQ4_K},
    {13, "Q5_K", DType::kQ5_K}, {14, "Q6_K", DType::kQ6_K},
};

struct TypeName {
  uint32_t id;
  const char* name;
};
// Types that are known by name but not supported.
constexpr TypeName kOtherTypes[] = {
    {4, "Q4_2"},        {5, "Q4_3"},        {9, "Q8_1"},        {10, "Q2_K"},    {11, "Q3_K"},
    {15, "Q8_K"},       {16, "IQ2_XXS"},    {17, "IQ2_XS"},     {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {20, "IQ4_NL"},     {21, "IQ3_S"},      {22, "IQ2_S"},      {23, "IQ4_XS"},  {24, "I8"},
    {25, "I16"},        {26, "I32"},        {27, "I64"},        {28, "F64"},     {29, "IQ1_M"},
    {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},   {34, "TQ1_0"},   {35, "TQ2_0"},
    {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {39, "MXFP4"},
};

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  for (const GgmlType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string ggml_type_name(uint32_t id) {
  if (const GgmlType* type = find_ggml_type(id)) return std::string(type->name);
  for (const TypeName& type : kOtherTypes) {
    if (type.id == id) return type.name;
  }
  return absl::StrCat("type ", id);
}

}  // namespace kascade::convert
