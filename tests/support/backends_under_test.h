// The CPU backends that this machine can run, as the parameter of a test suite.
#ifndef KASCADE_TESTS_SUPPORT_BACKENDS_UNDER_TEST_H_
#define KASCADE_TESTS_SUPPORT_BACKENDS_UNDER_TEST_H_

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "engine/backend/cpu/cpu.h"
#include "gtest/gtest.h"

namespace kascade::testing {

struct BackendCase {
  DType dtype = DType::kF32;  // dtype of weights and cache
  const cpu::Kernels* kernels = nullptr;
};
inline void PrintTo(const BackendCase& c, std::ostream* out) {
  *out << name_of(c.dtype) << " " << c.kernels->isa;
}

inline std::vector<BackendCase> backend_cases() {
  const cpu::Kernels* kernels[8];
  const int32_t count = cpu::usable_kernels(kernels, 8);
  std::vector<BackendCase> cases;
  for (int32_t i = 0; i < count; ++i) {
    cases.push_back({DType::kF32, kernels[i]});
    cases.push_back({DType::kBF16, kernels[i]});
  }
  return cases;
}

inline WeightFormat format_of(DType dtype) {
  return dtype == DType::kBF16 ? WeightFormat::kBF16 : WeightFormat::kF32;
}

// Tests with one thread; WithThreads tests other numbers of threads.
class CpuTest : public ::testing::TestWithParam<BackendCase> {
 protected:
  DType dtype() const { return GetParam().dtype; }
  std::unique_ptr<Backend> backend_ = cpu::make_cpu_backend(
      {.weights = format_of(dtype()), .threads = 1, .kernels = GetParam().kernels});
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

inline std::string name_of_case(const ::testing::TestParamInfo<BackendCase>& info) {
  return std::string(name_of(info.param.dtype)) + "_" + info.param.kernels->isa;
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_BACKENDS_UNDER_TEST_H_
