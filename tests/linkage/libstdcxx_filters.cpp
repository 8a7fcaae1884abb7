// Known answers for the "pprl-compat" filters, from the C++ standard library itself.
//
// A slow, separate statement of what CreateRecordLevelBF(method = "StaticUniform") of the R package
// PPRL does, written from its observed behaviour; the random engine, the seeding, the distribution
// and the shuffle are libstdc++'s. Reads lines of tab-separated fields, writes one filter a line.
//
//   g++ -O2 -std=c++17 libstdcxx_filters.cpp -o filters && ./filters < records.tsv
#include <algorithm>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

int main() {
  const std::vector<std::string> passwords{"(H]$6Uh*-Z204q", "lkjg", "klh", "KJHk\xc3\xa4lk5"};
  const int record_bits = 1000, field_bits = 500, draws = 20;
  std::string all;
  for (const auto &p : passwords) all += p;
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<int> record(record_bits, 0);
    std::stringstream stream(line);
    const int part = record_bits / static_cast<int>(passwords.size());
    for (std::size_t f = 0; f < passwords.size(); ++f) {
      std::string text;
      std::getline(stream, text, '\t');
      text = " " + text + " ";
      std::vector<int> bits(field_bits, 0);
      for (std::size_t i = 0; i + 1 < text.size(); ++i) {
        const std::string secret = text.substr(i, 2) + passwords[f];
        std::seed_seq seed(secret.begin(), secret.end());
        std::default_random_engine engine(seed);
        std::uniform_int_distribution<int> place(0, field_bits - 1);
        for (int d = 0; d < draws; ++d) bits[place(engine)] = 1;
      }
      for (int m = 0; m < part; ++m) record[f * part + m] = bits[m];
    }
    std::vector<int> mixed = record;
    std::seed_seq seed(all.begin(), all.end());
    std::shuffle(mixed.begin(), mixed.end(), std::default_random_engine(seed));
    for (int m = 0; m < record_bits - 1; ++m) std::cout << (record[m] | mixed[m]);
    std::cout << '\n';
  }
}
